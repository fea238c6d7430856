"""The contract of a method as checks that any package can run: ``check_method(MyMethod)``."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import numpy as np
import torch

import fedrsic_data
from fedrsic_data.dataset import skew
from fedrsic_data.dataset.reader import Dataset, Subset
from fedrsic_data.errors import PluginError
from fedrsic_data.settings import decode, encode
from fedtrain.config import RunConfig
from fedtrain.engines.base import Outcome, Training
from fedtrain.engines.local import InProcess
from fedtrain.engines.rounds import ReadOnce, finite, summarise, unlike
from fedtrain.methods.base import Context, Evaluation, Kind, Method, Ranked, State, Update, ranks

_SAMPLES: dict[Kind, tuple[str, dict[str, Any]]] = {
    "single-label": ("fed-rsic", {"subsets": "fed-ucmerced", "sample": {"per_class": 2, "size": 32}}),
    "multi-label": ("flair", {"sample": {"users": 10, "size": 32}, "partition": "iid"}),
}
_CLIENTS, _TOLERANCE, _SPLIT = 3, 1e-5, "test"
_NEAR = 0.8  # likeness of a name to a hook's, from which it counts as mistyped


def check_method(method: type[Method], settings: Mapping[str, Any] | None = None) -> None:
    """Run the checks that every method of fedkit passes, on a small rendered sample of each kind of data it takes.

    >>> from fedtrain.methods.promptfl import PromptFL
    >>> check_method(PromptFL, {"epochs": 1})

    Args:
        method: The class.
        settings: Its settings, such as few epochs; those not given have their defaults.

    Raises:
        AssertionError: It breaks the contract; the message says how.
    """
    _check_class(method)
    chosen = decode(method.Settings, dict(settings or {}), "settings")
    for kind in method.kinds:
        recipe, more = _SAMPLES[kind]
        with TemporaryDirectory() as folder:
            built = fedrsic_data.build(recipe, Path(folder) / "data", clients=_CLIENTS, **more)
            try:
                _check_bound(_Federation(method, chosen, built), Path(folder))
            except PluginError as error:
                raise AssertionError(str(error)) from error


def _check(holds: object, words: str) -> None:
    if not holds:
        raise AssertionError(f"the method {words}")


def _check_class(method: type[Method]) -> None:
    """Checks what lists, recipes of runs and the command line read."""
    _check(isinstance(method, type) and issubclass(method, Method), "does not extend fedtrain.methods.base.Method")
    _check(inspect.getdoc(method) != inspect.getdoc(Method), "has no docstring: say which paper it is from")
    _check_names(method)
    _check(isinstance(method.rounds, int) and method.rounds >= 0, "has rounds that are no whole number from 0")
    most = method.clients_per_round
    _check(most is None or (isinstance(most, int) and most > 0), "has clients_per_round that are no whole number")
    known = get_args(Kind)
    _check(method.kinds and set(method.kinds) <= set(known), f"has kinds {method.kinds!r}, which are not of {known}")
    kind = method.Settings
    _check(
        dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen,  # type: ignore[attr-defined]
        "has Settings that are no frozen dataclass",
    )
    data = json.loads(json.dumps(encode(kind())))
    _check(decode(kind, data, "Settings") == kind(), "has Settings that are others after a trip through JSON")
    _check(set(method.files) <= data.keys(), f"names files {method.files!r} that are not all settings")
    words = "\n".join(inspect.getdoc(one) or "" for one in kind.__mro__ if dataclasses.is_dataclass(one))
    for name in data:
        _check(re.search(rf"^\s*{name}: ", words, re.MULTILINE), f"has a setting {name} that no docstring explains")


def _check_names(method: type[Method]) -> None:
    """Checks that no public name of the class is a mistyped hook, which would never be called."""
    for place, kind in enumerate(method.__mro__):
        above = [*method.__mro__[place + 1 :], Ranked]
        hooks = {name for one in above for name in (*vars(one), *inspect.get_annotations(one)) if name[0] != "_"}
        for name in sorted(name for name in vars(kind).keys() - hooks if name[0] != "_"):
            near = difflib.get_close_matches(name, hooks, n=1, cutoff=_NEAR)
            _check(not near, f"has {name}, which looks like {''.join(near)} mistyped; rename it to that, or to _{name}")


@dataclass(frozen=True)
class _Federation:
    """A method, its settings and a dataset to bind it to."""

    method: type[Method]
    settings: Any
    data: Dataset

    @property
    def subset(self) -> Subset:
        return self.data[0]

    @cached_property
    def rows(self) -> tuple[int, ...]:
        return tuple(client.rows("train") for client in self.subset)

    def bound(self) -> Method:
        """A new object that is bound to all clients."""
        return self.method(self._context(self.subset, self.rows), self.settings)

    def at_site(self, client: int, *, counted: bool) -> Method:
        """A new object at the site of one client, which has its own counts of labels or, ``counted``, those of all."""
        part = self.subset.part([self.subset.clients[client]])
        if not counted:
            own = skew.train_counts(part.client_table, len(part.classes))
            part.entry = dataclasses.replace(part.entry, train_counts=own)
        return self.method(self._context(part, (self.rows[client],), numbers=(client,)), self.settings)

    def _context(self, subset: Subset, rows: tuple[int, ...], **more: Any) -> Context:
        return Context(subset, subset.clients, rows, 0, torch.device("cpu"), **more)


def _check_bound(federation: _Federation, folder: Path) -> None:
    method, clients = federation.bound(), [k for k, rows in enumerate(federation.rows) if rows]
    server, personal = _states(federation, method)
    evaluated = _evaluated(method, server, personal.__getitem__)
    _check(
        evaluated == _evaluated(federation.bound(), server, personal.__getitem__), "evaluates equal states differently"
    )
    if not method.rounds:
        return
    own = [personal[client] for client in clients]
    first = _trained(method, server, own, clients)
    _check_draws(federation, server, own, clients, first)
    for client, mine, update in zip(clients, own, first, strict=True):
        (alone,) = _trained(federation.bound(), server, [mine], [client])
        _check(_near(alone, update), f"trains client {client} by itself to another result than in a cohort")
        _check_site(federation, server, mine, client, update)
    after = _kept(server, lambda: method.aggregate(server, ReadOnce(first, method)), "aggregate")
    _check(not unlike(after, server), f"aggregates to a server's state that is not as before: {unlike(after, server)}")
    later = [update.personal for update in first]
    second = _trained(method, after, later, clients, 2)
    _check(
        all(map(_near, second, _trained(federation.bound(), after, later, clients, 2))),
        "remembers a round in its object; a run that was killed could not go on. Keep it in shared() or personal()",
    )
    _check_resumed(federation, folder)


def _states(federation: _Federation, method: Method) -> tuple[State, list[State]]:
    """The states before the first round, which every new object of the method makes again."""
    number = range(len(federation.rows))
    server, personal = method.shared(), [method.personal(client) for client in number]
    for state in (server, *personal):
        fine = isinstance(state, dict) and all(isinstance(value, torch.Tensor) for value in state.values())
        _check(fine, "has a state that is no dict of tensors by name")
    names = {tuple(state) for state in personal}
    _check(len(names) == 1, "gives clients personal tensors of several names")
    again = federation.bound()
    same = _same(again.shared(), server) and all(_same(again.personal(k), personal[k]) for k in reversed(number))
    _check(same, "starts in another state each time; draw from fedtrain.seeds.generator(seed, ...)")
    return server, personal


def _evaluated(method: Method, server: State, personal: Callable[[int], State]) -> dict[str, Any]:
    """The metrics of a state, once the shape of the evaluation is checked."""
    found = _kept(server, lambda: method.evaluate(server, personal, _SPLIT), "evaluate")
    _check(isinstance(found, Evaluation), "evaluates to something else than an Evaluation")
    count = len(method.context.clients)
    for name, values in found.clients.items():
        _check(len(values) == count, f"evaluates {name} for {len(values)} of {count} clients; give NaN without rows")
    _check(not found.clients or len(found.rows) == count, "evaluates clients without saying how many rows each has")
    _check(set(found.over) <= set(found.metrics), "evaluates to numbers of rows of metrics that are not there")
    metrics = summarise(found)
    _check(any(value is not None for value in metrics.values()), "evaluates to no finite metric")
    if ranks(method):
        scores = method.scores(server, personal, _SPLIT)
        _check("owner" in scores, "scores rows without saying whose they are; add owner, int64 [N]")
        _check(summarise(method.figures(scores)) == metrics, "gives other metrics of its scores than it evaluates to")
    return metrics


def _trained(
    method: Method, server: State, personal: Sequence[State], clients: Sequence[int], round_: int = 1
) -> list[Update]:
    """The updates of a round, once their shape is checked."""
    if method.sends_all_the_same:
        cohorts = [(list(clients), list(personal))]
    else:
        cohorts = [([client], [own]) for client, own in zip(clients, personal, strict=True)]
    updates: list[Update] = []
    for members, own in cohorts:
        received = method.received(members[0], server)
        states = {f"{place}/{name}": value for place, state in enumerate(own) for name, value in state.items()}
        updates += _kept({**received, **states}, lambda: list(method.train(received, own, members, round_)), "train")  # noqa: B023
    _check([one.client for one in updates] == list(clients), "gives other updates than one a client, in their order")
    rows, wanted = method.context.rows, method.sent_back(server)
    for one, mine in zip(updates, personal, strict=True):
        _check(0 < one.rows <= rows[one.client], f"trains client {one.client} on {one.rows} of {rows[one.client]} rows")
        _check(not unlike(one.shared, wanted), f"sends what sent_back does not say: {unlike(one.shared, wanted)}")
        _check(one.personal.keys() == mine.keys(), "keeps personal tensors of other names than personal() gives")
        _check(math.isfinite(one.loss) and finite(one), "trains to NaN or infinity")
    return updates


def _check_draws(
    federation: _Federation, server: State, personal: Sequence[State], clients: Sequence[int], wanted: Sequence[Update]
) -> None:
    """Checks that draws depend on the run's seed alone, and leave the global generators where they are."""
    before = list(_global_draws())
    again = _trained(federation.bound(), server, personal, clients)
    _check(before == list(_global_draws()), "draws from a global generator; use fedtrain.seeds.generator(seed, ...)")
    _check(all(map(_near, again, wanted)), "trains equal states to unequal results")


def _check_site(federation: _Federation, server: State, own: State, client: int, wanted: Update) -> None:
    """Checks that a client trains at its site as it does here; see ``Context.numbers``."""
    here = federation.bound()
    site, received = federation.at_site(client, counted=here.counts_labels), here.sent_to(client, server)
    _check(_same(site.personal(0), here.personal(client)), "draws by a client's place, not its number")
    (there,) = site.train(received, [own], [0], 1)
    _check(
        _near(dataclasses.replace(there, client=client), wanted),
        f"trains client {client} at its site to another result; draws take context.number(client), and a method that "
        "reads train_counts sets counts_labels",
    )


def _check_resumed(federation: _Federation, folder: Path) -> None:
    """Checks that a run of two rounds ends the same if it stops after the first."""
    config = RunConfig(
        "checked", federation.data.where, federation.subset.name, rounds=2, splits=(_SPLIT,), device="cpu", clip="tiny"
    )

    def go(name: str, until: int | None = None) -> Outcome:
        place = folder / name
        place.mkdir(exist_ok=True)
        method = federation.bound()
        return InProcess().run(Training(method, method.context, config, place, "checked", until=until))

    whole = go("whole")
    go("parts", until=1)
    parts = go("parts")
    same = _same(parts.shared, whole.shared) and all(
        summarise(parts.evaluations[split]) == summarise(one) for split, one in whole.evaluations.items()
    )
    _check(same, "ends elsewhere if a run stops and goes on; keep all it remembers in shared() or personal()")


def _kept(state: State, work: Callable[[], Any], hook: str) -> Any:
    """The result of a hook, once it is checked that it changed no tensor that it received."""
    before = {name: value.clone() for name, value in state.items()}
    found = work()
    _check(_same(state, before), f"changes in {hook} a tensor that it received; make a new one")
    return found


def _near(left: Update, right: Update) -> bool:
    return (
        left.client == right.client
        and math.isclose(left.loss, right.loss, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
        and _same(left.shared, right.shared, _TOLERANCE)
        and _same(left.personal, right.personal, _TOLERANCE)
    )


def _same(left: State, right: State, tolerance: float = 0.0) -> bool:
    return left.keys() == right.keys() and all(
        torch.allclose(value.double(), right[name].double(), rtol=0, atol=tolerance) for name, value in left.items()
    )


def _global_draws() -> Iterator[object]:
    """Where the global generators are."""
    yield torch.random.get_rng_state().tolist()
    state = np.random.get_state(legacy=False)  # noqa: NPY002
    yield (state["state"]["key"].tolist(), state["state"]["pos"])
    yield random.getstate()
