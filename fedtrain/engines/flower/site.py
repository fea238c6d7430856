"""A site: it trains its clients on the server's messages and answers. Their personal states stay here."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod

from fedrsic_data.dataset.reader import Dataset
from fedrsic_data.errors import FedkitError, OutputError, UsageError, translated
from fedrsic_data.registry import is_path
from fedrsic_data.settings import decode
from fedtrain import methods
from fedtrain.config import digest, from_json, to_json
from fedtrain.engines.flower import privacy, wire
from fedtrain.engines.rounds import demand_personal, finite
from fedtrain.methods import base
from fedtrain.methods.base import Method, State, ranks
from fedtrain.runs.state import PersonalStore, placed

_KEPT = "fedkit.personal"


@dataclass(frozen=True)
class Node:
    """Configuration of a node.

    Attributes:
        manifest: Its dataset.
        clients: Which of the dataset's clients are here; empty: all.
        states: Folder of personal states; None: only in the node's memory, which is lost on restart.
        several: Whether several runs keep their states there, each in its own folder.
        simulated: Whether the server is this machine's, and may name a method that is not installed by its place.
        cache: Folder for results that can be recomputed; None: no cache.
        device: Where to compute.
    """

    manifest: str
    clients: tuple[str, ...] = ()
    states: str | None = None
    cache: str | None = None
    device: str = "cpu"
    several: bool = False
    simulated: bool = False


def client_app(place: Callable[[Context], Node]) -> ClientApp:
    """A Flower app of sites.

    Args:
        place: Returns the configuration of the node that received a message.
    """
    app = ClientApp()

    @app.query("join")
    def join(message: Message, context: Context) -> Message:
        return _answer(message, lambda: _joined(message, place(context)))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        def work(told: Message, at: Context) -> Message:
            return _answer(told, lambda: _trained(told, at, place(at)))

        told = wire.ordered(message.content.config_records[wire.CONFIG])
        dp = told.config.dp
        if dp.noise is not None:
            return fixedclipping_mod(message, context, work)
        if dp.epsilon is not None:
            mod = LocalDpMod(dp.clipping, dp.sensitivity, dp.epsilon, dp.delta)
            with privacy.seeded(dp, told.round, told.number):
                return mod(message, context, work)
        return work(message, context)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return _answer(message, lambda: _judged(message, context, place(context)))

    return app


def label_space(dataset: Dataset, subset: str) -> str:
    """Digest of the recipe and the label space, which all parts of a federation share."""
    entry = dataset.subset(subset).entry
    fine = entry.fine.classes if entry.fine else ()
    return digest([dataset.manifest.name, entry.classes, entry.multi_label, entry.novel, fine])


def _answer(message: Message, work: Callable[[], RecordDict]) -> Message:
    """The reply; errors that a person can fix are in its text."""
    try:
        return Message(work(), reply_to=message)
    except FedkitError as error:
        return Message(Error(wire.FAILED, str(error)), reply_to=message)


def _joined(message: Message, place: Node) -> RecordDict:
    """Names of the clients that are here, and their training rows.

    Raises:
        FedkitError: The node's config names a missing file, or cannot be used.
    """
    _usable(place)
    dataset = Dataset(place.manifest)
    name = str(message.content.config_records[wire.CONFIG]["subset"])
    subset = dataset.subset(name)
    clients = list(place.clients or subset.clients)
    rows = [subset.client(client).rows("train") for client in clients]
    facts = ConfigRecord({"clients": clients, "labels": label_space(dataset, name)})
    return RecordDict({wire.CONFIG: facts, wire.METRICS: MetricRecord({"rows": rows})})


def _usable(place: Node) -> None:
    """Report before the first round a config that would fail in it."""
    try:
        torch.empty(1, device=place.device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        words = str(error).splitlines()[0][:120]
        raise UsageError(f"the node's config: device={place.device!r} cannot be used ({words}); use cpu") from None
    if place.states is not None:
        where = f"the node's config: state-dir={place.states!r}"
        with translated(UsageError, where, "cannot be made", "name another folder"):
            Path(place.states).mkdir(parents=True, exist_ok=True)


def _trained(message: Message, context: Context, place: Node) -> RecordDict:
    told = wire.ordered(message.content.config_records[wire.CONFIG])
    method, device = _ready(told, place)
    kept = _Kept(told, method, context.state, place, device, prune=True)
    shared = wire.state(message.content.array_records[wire.ARRAYS], device)
    own = kept.get()
    (update,) = method.train(shared, [own], [0], told.round)
    demand_personal(method, update, own)
    whole = finite(update)
    if whole:
        kept.put(update.personal)
    return wire.update(update, finite=whole)


def _judged(message: Message, context: Context, place: Node) -> RecordDict:
    told = wire.ordered(message.content.config_records[wire.CONFIG])
    method, device = _ready(told, place)
    # no checkpoint of the server has the states of this round yet, so older ones have to stay
    personal = _Kept(told, method, context.state, place, device, prune=False).get()
    shared = wire.state(message.content.array_records[wire.ARRAYS], device)
    found = {}
    for split in told.splits:
        if told.config.flower.scores and ranks(method):
            scores = method.scores(shared, lambda _: personal, split)
            found[split] = wire.Judged(method.figures(scores), scores)
        else:
            found[split] = wire.Judged(method.evaluate(shared, lambda _: personal, split))
    return wire.judged(found)


class _Kept:
    """The personal state of the client of an order: in the node's memory, and in its folder if it has one."""

    def __init__(
        self, told: wire.Order, method: Method, memory: RecordDict, place: Node, device: torch.device, *, prune: bool
    ) -> None:
        self._told, self._memory, self._device = told, memory, device
        self._start = placed(method.personal(0), device)
        self._name = f"{_KEPT}.{told.number}"
        self._store: PersonalStore | None = None
        if place.states is not None:
            self._store = PersonalStore(
                Path(place.states) / told.key[:16] if place.several else Path(place.states),
                lambda _: method.personal(0),
                device,
                in_memory=False,
                rounds={told.number: told.since} if told.since else {},
                key=told.key,
                only=told.number,
                prune=prune,
            )

    def get(self) -> State:
        """The state of the round that the order names.

        Raises:
            OutputError: It is gone.
        """
        told = self._told
        if not self._start or not told.since:
            return self._start
        facts = self._memory.config_records.get(self._name)
        if facts is not None and (facts["key"], facts["round"]) == (told.key, told.since):
            return wire.state(self._memory.array_records[f"{self._name}.arrays"], self._device)
        if self._store is None:
            raise OutputError(
                f"{told.client}: its personal state of round {told.since} is gone; give the node a state-dir, "
                "and start the run anew"
            )
        return self._store.get(told.number)

    def put(self, state: State) -> None:
        """Keeps the client's state after the order's round."""
        if not state:
            return
        told = self._told
        self._memory[self._name] = ConfigRecord({"key": told.key, "round": told.round})
        self._memory[f"{self._name}.arrays"] = ArrayRecord(
            {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}
        )
        if self._store is not None:
            self._store.put(told.number, state, told.round)


def _ready(told: wire.Order, place: Node) -> tuple[Method, torch.device]:
    """The method, bound to the one client of an order.

    Raises:
        UsageError: The client is not here.
    """
    if place.clients and told.client not in place.clients:
        raise UsageError(f"{told.client}: is not at this site")
    return _bound(json.dumps(to_json(told.config)), told.client, told.number, told.counts, told.ranks, place)


@lru_cache(maxsize=16)  # a simulation's worker serves many clients, and binding takes seconds
def _bound(
    text: str, client: str, number: int, counts: tuple[int, ...], ranks: tuple[int, ...], place: Node
) -> tuple[Method, torch.device]:
    config, device = from_json(json.loads(text)), torch.device(place.device)
    by_path = place.simulated and is_path(config.method)
    kind: Any = methods.METHODS.at(config.method) if by_path else methods.METHODS[config.method]
    subset = Dataset(place.manifest, proved=True).subset(config.subset).part([client])
    fine = subset.entry.fine
    if counts:
        subset.entry = replace(subset.entry, train_counts=counts)
    if fine is not None:
        subset.entry = replace(subset.entry, fine=replace(fine, train_counts=ranks))
    context = base.Context(
        subset=subset,
        clients=(client,),
        rows=(subset.client(client).rows("train"),),
        seed=config.seed,
        device=device,
        precision=config.precision if device.type == "cuda" else "float32",
        clip=str(config.clip),
        cache=Path(place.cache) if place.cache else None,
        held_out=config.held_out,
        numbers=(number,),
    )
    method: Method = kind(context, decode(kind.Settings, config.method_settings, config.method))
    torch.set_num_threads(min(torch.get_num_threads(), method.threads or torch.get_num_threads()))
    if config.deterministic:
        torch.use_deterministic_algorithms(True)
    return method, device
