"""The config of a run: every choice in one frozen dataclass, JSON both ways, changed by ``key=value`` texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fedrsic_data.dataset.manifest import Manifest
from fedrsic_data.errors import UsageError, masked
from fedrsic_data.settings import (
    Setting,
    assigned,
    at_least,
    decode,
    encode,
    hints_of,
    listed,
    parsed,
    positive,
    suggest,
)

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "float32", "bfloat16"]

_MOST = 2**53  # whole numbers up to here are exact in JSON everywhere; none that means anything is beyond
_LARGEST = 1e38
_ARGUMENTS = ("method", "manifest", "subset", "method_settings", "dp", "flower")  # no settings
_NESTED = ("dp", "flower")  # their fields are, with their names in front
NEUTRAL = ("flower", "manifest", "cohort", "checkpoint_every", "store", "tensorboard")
"""Fields that do not change a result."""
_LATER: dict[str, dict[str, Any]] = {
    "dp": {"seed": None},
    "method_settings": {"freeze_backbone": 0, "backbone_lr": None, "loss": "auto", "mask": "auto"},
}
"""Settings that 0.1.0 did not have, with the values that say what it did."""
_LATER_OF_PROMPTS: dict[str, Any] = {
    "views": 1,
    "labels": "coarse",
    "loss_over": "all",
    "score": "sigmoid",
    "loss": "asl",
    "gamma_neg": 2.0,
    "gamma_pos": 1.0,
    "shift": 0.05,
}
"""As ``_LATER``, of methods that learn prompts, which have no ``backbone_weights``; networks had ``labels``."""
_LATER_OF_ANCHORS = {"template": "a photo of a {}."}
"""As ``_LATER``, of methods with an ``anchor``; others had ``template``."""


def _no_login(name: str, value: object) -> None:
    """Refuse URLs with a password or a query, since configs are stored and shown to others."""
    if isinstance(value, str) and "://" in value and masked(value) != value:
        raise UsageError(f"{name}={masked(value)}: a URL with a login is never stored in a run; give one without")


@dataclass(frozen=True)
class Privacy:
    """Differential privacy of what clients send, by Flower's own modules; the unit is a client.

    Attributes:
        noise: Central: every client scales its change to at most ``clipping``, all count the same, and the server adds
            to their mean noise of ``noise`` x ``clipping`` / clients. None: none.
        clipping: L2 norm that a client's change of the shared state is scaled down to.
        epsilon: Local: every client adds noise to its change itself, for this epsilon of each round it takes part
            in. None: none.
        delta: Delta of both kinds.
        sensitivity: Local: how far one client can move what it sends, in L2 norm.
        seed: Makes the noise repeatable, for experiments. Whoever knows it can subtract it, so it protects nobody.
            None: the operating system's randomness, which never repeats.
    """

    noise: float | None = None
    clipping: float = 1.0
    epsilon: float | None = None
    delta: float = 1e-5
    sensitivity: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("noise", "epsilon"):
            if getattr(self, name) is not None:
                positive(f"dp.{name}", getattr(self, name))
        for name in ("clipping", "sensitivity"):
            positive(f"dp.{name}", getattr(self, name))
        if not 0 < self.delta < 1:
            raise UsageError(f"dp.delta={self.delta} should be between 0 and 1")
        if self.noise is not None and self.epsilon is not None:
            raise UsageError("dp: noise is for central privacy, epsilon for local privacy; set one of them")
        if self.seed is not None:
            at_least("dp.seed", self.seed, 0)
            if self.noise is None and self.epsilon is None:
                raise UsageError(f"dp.seed={self.seed}: there is no noise to repeat; set dp.noise or dp.epsilon")


@dataclass(frozen=True)
class FlowerSettings:
    """Settings of a run over Flower.

    Attributes:
        timeout: Seconds that a site has to answer; the round goes on without it.
        wait: Seconds that a run waits for all sites before it begins.
        scores: Whether sites send, for methods whose metrics rank the rows of all clients together, the scores and
            labels of their held-out rows. Without them such metrics are computed per client.
        cpus: Simulation: CPUs of a client while it works.
        gpus: Simulation: share of a GPU of a client while it works.
        ray_address: Simulation: a running Ray cluster; None: start a local Ray.
    """

    timeout: float = 3600.0
    wait: float = 600.0
    scores: bool = False
    cpus: float = 1.0
    gpus: float = 0.0
    ray_address: str | None = None

    def __post_init__(self) -> None:
        _no_login("flower.ray_address", self.ray_address)
        for name in ("timeout", "wait", "cpus"):
            positive(f"flower.{name}", getattr(self, name))
        at_least("flower.gpus", self.gpus, 0)


@dataclass(frozen=True)
class RunConfig:
    """A run: one method on one subset with one seed.

    Attributes:
        method: Name of a method; see ``fedkit list methods``.
        manifest: A built ``manifest.json`` or its folder, or ``hf://USER/NAME[@REVISION]``.
        subset: Which of its federations.
        rounds: Rounds to train; None: as many as the method's authors publish. 0 evaluates the start.
        seed: Seed of every random draw, 0 or more.
        sampling: Clients of each round. ``all``: every client with training rows. ``uniform``: ``clients_per_round``
            of them, each as likely as any other. ``size``: as many, none twice, each with a chance in proportion to its
            training rows; a client so large that its chance would be above 1 is in every round. ``auto``: ``uniform``
            with ``clients_per_round``, else ``all``.
        weighting: Weights of updates. ``unbiased``: so that over the rounds a client counts by its rows, and no
            row counts twice: by rows with ``all`` and ``uniform``; all the same with ``size``, whose draw heeds rows
            already (a client that is in every round by its number of rows more). ``rows``: by the rows trained on,
            whatever the sampling; with ``size``, large clients are sampled more often and also weigh more. ``equal``:
            all the same.
        clients_per_round: Clients sampled in each round, all if a subset has fewer; None: as many as the method's
            authors publish, if they do.
        dropout: Probability that a sampled client neither trains nor answers this round, from 0 to below 1.
        eval_every: Rounds from one evaluation to the next; the last round is always evaluated.
        splits: Held-out splits to evaluate on; empty: all that the subset has.
        checkpoint_every: Rounds from one checkpoint to the next; the last round is always saved.
        cohort: Maximum number of clients trained at once. More is faster and takes more memory.
        device: ``auto``: a GPU if there is one.
        precision: ``bfloat16`` is for autocast on a GPU; ``auto``: there, else ``float32``.
        deterministic: Only algorithms that repeat bit by bit, also on a GPU; slower there.
        clip: CLIP model, for methods that use one: ``tiny``, ``ARCH:TAG`` or ``ARCH:PATH`` of open_clip; None: ``tiny``
            for sample data, ``ViT-B-16:openai`` for real images.
        held_out: Domain whose rows no client trains on (leave-one-domain-out); None: none.
        neighbour: Also evaluate each client's model on the rows of all other clients. Where every client has its own
            model, that is as many evaluations of the whole split as there are clients.
        store: Place of personal states between rounds: in ``memory``, or only on ``disk``, for many clients.
        tensorboard: Also write TensorBoard events into the run's folder.
        dp: Differential privacy, see ``Privacy``.
        flower: Settings for Flower, see ``FlowerSettings``.
        method_settings: The method's own settings; those not given have its defaults.
    """

    method: str
    manifest: str
    subset: str
    rounds: int | None = None
    seed: int = 0
    sampling: Literal["auto", "all", "uniform", "size"] = "auto"
    weighting: Literal["unbiased", "rows", "equal"] = "unbiased"
    clients_per_round: int | None = None
    dropout: float = 0.0
    eval_every: int = 1
    splits: tuple[str, ...] = ()
    checkpoint_every: int = 1
    cohort: int = 32
    device: Device = "auto"
    precision: Precision = "auto"
    deterministic: bool = False
    clip: str | None = None
    held_out: str | None = None
    neighbour: bool = False
    store: Literal["memory", "disk"] = "memory"
    tensorboard: bool = False
    dp: Privacy = Privacy()
    flower: FlowerSettings = FlowerSettings()
    method_settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in (vars(self) | self.method_settings).items():
            _no_login(name, value)
            if type(value) is int and value > _MOST:
                raise UsageError(f"{name}={value} should be at most {_MOST:,}")
            if type(value) is float and abs(value) > _LARGEST:
                raise UsageError(f"{name}={value} should be at most {_LARGEST}, about the largest float32")
        at_least("rounds", 0 if self.rounds is None else self.rounds, 0)
        at_least("seed", self.seed, 0)
        for name in ("eval_every", "checkpoint_every", "cohort"):
            at_least(name, getattr(self, name), 1)
        if len(set(self.splits)) < len(self.splits):
            raise UsageError(f"splits={list(self.splits)}: one occurs twice; name each once")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout={self.dropout} should be from 0 to below 1")
        if self.clients_per_round is not None:
            at_least("clients_per_round", self.clients_per_round, 1)
            if self.sampling == "all":
                raise UsageError(f"clients_per_round={self.clients_per_round}: sampling=all uses all; set one of them")
        if self.weighting == "rows" and self.dp.noise is not None:
            raise UsageError("weighting=rows: with dp.noise every client counts the same; set one of them")


def from_json(data: object, where: str = "config") -> RunConfig:
    """A config from parsed JSON; the method's own settings are checked where the method is known.

    Raises:
        UsageError: An unknown key, or a value that cannot be used.
    """
    return decode(RunConfig, data, where)


def to_json(config: RunConfig) -> dict[str, Any]:
    """Every field of a config as plain JSON values."""
    data: dict[str, Any] = encode(config)
    return data


def changed(config: RunConfig, sets: Sequence[str], settings: type) -> RunConfig:
    """A config changed by what the command line said, the method's settings spelled out in full.

    Args:
        config: Is not changed.
        sets: ``key=value`` texts: a field of ``RunConfig`` or one of ``settings``; a name that both have is ``run.key``
            or ``method.key``; ``dp.key`` and ``flower.key`` are fields of those parts. For values see
            ``settings.parsed``.
        settings: The method's dataclass of settings.

    Raises:
        UsageError: An unknown key, or a value that cannot be used.
    """
    run = {key: hint for key, hint in hints_of(RunConfig).items() if key not in _ARGUMENTS}
    scopes = {"run": run, "method": hints_of(settings), "dp": hints_of(Privacy), "flower": hints_of(FlowerSettings)}
    data = to_json(config)
    for text in sets:
        path, value = assigned(text)
        scope, key = _found(path, scopes, config.method)
        target = data if scope == "run" else data[scope if scope in _NESTED else "method_settings"]
        target[key] = parsed(value, scopes[scope][key])
    data["method_settings"] = full_settings(config.method, data["method_settings"], settings)
    return from_json(data)


def _found(path: str, scopes: dict[str, dict[str, Any]], method: str) -> tuple[str, str]:
    """The scope and the key that ``key``, ``run.key`` or ``method.key`` means."""
    scope, dot, key = path.rpartition(".")
    having = [n for n, known in scopes.items() if key in known and (scope == n or not (scope or n in _NESTED))]
    if len(having) > 1:
        raise UsageError(f"{path}: the run and {method} both have it; say run.{key} or method.{key}")
    if not having or (dot and not scope):
        known = {f"{n}.{name}" if n in _NESTED else name: None for n, hints in scopes.items() for name in hints}
        raise UsageError(f"unknown key {path!r} for {method}{suggest(key, known)}")
    return having[0], key


def known_settings(settings: type | None) -> dict[str, list[Setting]]:
    """The settings of a run by scope, as ``changed`` takes them.

    Args:
        settings: The method's dataclass of settings; None: it is not known yet.
    """
    scopes = {"run": RunConfig, "method": settings, "dp": Privacy, "flower": FlowerSettings}
    found = {scope: listed(cls, scope) for scope, cls in scopes.items() if cls is not None}
    return found | {"run": [one for one in found["run"] if one.name not in _ARGUMENTS]}


def full_settings(method: str, given: object, settings: type) -> dict[str, Any]:
    """A method's settings, those not given with their defaults.

    Raises:
        UsageError: An unknown key, or a value that cannot be used.
    """
    data: dict[str, Any] = encode(decode(settings, given, method))
    return data


def identity(config: RunConfig, manifest: str, weights: Mapping[str, str]) -> str:
    """Digest of all that a run's result depends on: two runs that share it give the same result.

    Args:
        config: Resolved: with nothing left for ``auto``.
        manifest: The manifest's digest. Its place makes no difference.
        weights: Digests of the files of weights that the config names.
    """
    return identity_of(to_json(config), manifest, weights)


def identity_of(config: Mapping[str, Any], manifest: str, weights: Any) -> str:
    """``identity`` of a config as JSON has it, and as a run's folder holds it."""
    return digest({"config": essence(config), "manifest": manifest, "weights": weights})


def lineage_of(config: Mapping[str, Any], manifest: str, weights: Any) -> str:
    """Digest that is shared by runs that differ only in their number of rounds: one goes on from the other.

    Methods do not know the number of rounds, so no schedule depends on it.
    """
    return identity_of({key: value for key, value in config.items() if key != "rounds"}, manifest, weights)


def essence(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config, as JSON has it, that tell runs apart.

    Fields that 0.1.0 did not have are left out where they say what it did, so that its runs resume.
    """
    data = {key: value for key, value in config.items() if key not in NEUTRAL}
    if data.get("weighting") == "unbiased" and data.get("sampling") != "size":
        del data["weighting"]
    if not data.get("neighbour"):
        data.pop("neighbour", None)
    for part, later in _LATER.items():
        if isinstance(held := data.get(part), Mapping):
            if part == "method_settings" and "backbone_weights" not in held:
                later = _LATER_OF_PROMPTS | (_LATER_OF_ANCHORS if "anchor" in held else {})
            data[part] = {k: value for k, value in held.items() if k not in later or later[k] != value}
    return data


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that tell runs apart, as ``--set`` names them: ``dropout``, ``method.dropout``, ``dp.noise``.

    Args:
        config: As JSON has it.
    """
    fields = essence(config)
    if fields.get("sampling") != "size":
        fields.pop("sampling", None)  # ``all`` or ``uniform`` as ``clients_per_round`` is given or not
    settings, noise = (fields.pop(part, None) or {} for part in ("method_settings", "dp"))
    own = {f"method.{key}" if key in fields else key: value for key, value in settings.items()}
    return {**fields, **{f"dp.{key}": value for key, value in noise.items()}, **own}


def group(config: Mapping[str, Any], manifest: Manifest, weights: Any) -> str:
    """Digest that is shared by runs that differ only in their seed.

    Args:
        config: Resolved, as JSON has it.
        manifest: Manifest of the dataset; the seed of its recipe makes no difference.
        weights: As for ``identity``.
    """
    data = {key: value for key, value in essence(config).items() if key != "seed"}
    recipe = {key: value for key, value in encode(manifest.recipe).items() if key != "seed"}
    return digest({"config": data, "recipe": digest(recipe), "weights": weights})


def told_of(manifest: Manifest, subset: str) -> dict[str, Any]:
    """Record of a run's dataset in its folder."""
    recipe = manifest.recipe
    return {
        "name": manifest.name,
        "digest": manifest.digest,
        "seed": recipe.seed,
        "sample": recipe.sample is not None,
        "recipe": recipe.settings_of(subset),
        "sources": sorted(manifest.sources),
        "titles": {name: source.title for name, source in sorted(manifest.sources.items())},
        "partition": (recipe.subsets[subset].partition or recipe.partition)["name"],
    }


def digest(data: Any) -> str:
    """sha256 of plain JSON values."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
