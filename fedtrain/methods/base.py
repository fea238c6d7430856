"""The contract of a method: shared and personal state, training of clients, evaluation of a model.

The engines know nothing else about a method. A cohort of one and a cohort of many give the same updates, so the same
file serves one process that trains all clients and a network that trains one at each site.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias, TypeGuard, runtime_checkable

from fedrsic_data.errors import UsageError
from fedtrain.methods.aggregate import weighted_mean
from fedtrain.methods.lazy import torch

if TYPE_CHECKING:
    from fedrsic_data.dataset.reader import Subset

State: TypeAlias = "dict[str, torch.Tensor]"
"""Tensors by name."""

Kind: TypeAlias = Literal["single-label", "multi-label"]
"""The kind of a dataset: its images have one label each, or any number of them."""


@dataclass(frozen=True)
class Context:
    """The federation that a method works with.

    Attributes:
        subset: The federation.
        clients: Client ids by number; every client is meant by its place in here, so results do not depend on names.
        rows: Training rows of each client.
        seed: Seed of the run; every draw comes from ``fedtrain.seeds.generator(seed, *purpose)``.
        device: Where to compute.
        precision: ``float32``, or ``bfloat16`` for autocast on a GPU.
        clip: CLIP model of the methods that use one; see ``fedtrain.models.clip.load``.
        cache: Folder for results that can be recomputed (features); None: no cache.
        held_out: Domain whose rows no client trains on (leave-one-domain-out); None: none.
        neighbour: Whether each client's model is also evaluated on the rows of all others.
        numbers: At a site, which has some clients of a federation: their numbers in it. Empty: all clients are here.
        say: Called with descriptions of long steps.
    """

    subset: Subset
    clients: tuple[str, ...]
    rows: tuple[int, ...]
    seed: int
    device: torch.device
    precision: str = "float32"
    clip: str = "tiny"
    cache: Path | None = None
    held_out: str | None = None
    neighbour: bool = False
    numbers: tuple[int, ...] = ()
    say: Callable[[str], None] = lambda _: None

    def number(self, client: int) -> int:
        """A client's number in the whole federation, from which its draws are derived."""
        return self.numbers[client] if self.numbers else client


@dataclass(frozen=True)
class Update:
    """The result of training at a client.

    Attributes:
        client: Its number.
        rows: Rows it trained on.
        shared: Tensors that it sends to the server. No other tensor leaves it.
        personal: Tensors that stay at the client.
        loss: Mean training loss over its steps.
        weight: Its weight in the mean. The engine sets it, from the run's ``weighting`` and ``sampling``.
    """

    client: int
    rows: int
    shared: State
    personal: State
    loss: float
    weight: float = 1.0


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a model on one split.

    Attributes:
        metrics: Metrics over all clients or over the whole split, by name; percentages are 0 to 100.
        clients: Per-client metrics by name: one value per client in the order of ``Context.clients``, NaN for a client
            without rows in the split.
        rows: Rows of the split at each client.
        over: Number of rows for each metric that is a mean over rows: from these, the metric of a whole federation
            can be computed from those of its parts.
    """

    metrics: Mapping[str, float]
    clients: Mapping[str, Sequence[float]] = field(default_factory=dict)
    rows: Sequence[int] = ()
    over: Mapping[str, int] = field(default_factory=dict)


class Method:
    """A federated method, bound to a federation and its settings; a subclass is one file.

    A subclass gives ``train``, ``evaluate``, at least one of ``shared`` and ``personal``, and those attributes of the
    class that differ from the defaults. By default every client receives the server's state, and the server takes the
    weighted mean of the tensors that come back.

    Every hook is a pure function of its arguments, the settings and the run's seed: the server may run on another
    machine than the clients, and any of them may start again from a checkpoint. A method remembers in the state
    of the server and in those of clients, and nowhere else.

    Example:
        Federated estimation of a mean, with a momentum of the server's::

            @dataclass(frozen=True)
            class MeanSettings:
                momentum: float = 0.9


            class Mean(Method):
                Settings = MeanSettings
                rounds = 10

                def shared(self):
                    return {"mean": torch.zeros(3), "velocity": torch.zeros(3)}

                def sent_back(self, server):
                    return {"mean": server["mean"]}

                def train(self, shared, personal, clients, round_):
                    for client in clients:
                        rows = self.rows_of(client)  # float [n, 3]
                        yield Update(client, len(rows), {"mean": rows.mean(0)}, {}, loss=0.0)

                def aggregate(self, server, updates):
                    step = super().aggregate(server, updates)["mean"] - server["mean"]
                    velocity = self.settings.momentum * server["velocity"] + step
                    return {"mean": server["mean"] + velocity, "velocity": velocity}

                def evaluate(self, shared, personal, split): ...

    Attributes:
        Settings: Frozen dataclass of the method's settings, each with its published default.
        rounds: Number of rounds in its paper; our choice if it gives none.
        kinds: The kinds of data that it trains on.
        leaves_out_unknown: Whether its loss leaves out labels that nobody knows, see ``fedtrain.data.label_states``.
        judges_neighbours: Whether ``evaluate`` gives the metric ``neighbour`` that the context asks for.
        gathers_rows: Whether its server reads the rows of clients; a federation over Flower refuses it.
        clients_per_round: Clients per round in its paper; None: all.
        files: Settings that may name a file of weights, whose digest identifies a run.
        has_personal: Whether clients have personal state; True in a class that overrides ``personal``.
        counts_labels: Whether training needs the rows of each label over all clients. The server then tells its sites.
        context: The federation.
        settings: The method's own.
    """

    Settings: ClassVar[type[Any]]
    rounds: ClassVar[int]
    kinds: ClassVar[tuple[Kind, ...]] = ("single-label",)
    leaves_out_unknown: ClassVar[bool] = False
    judges_neighbours: ClassVar[bool] = False
    gathers_rows: ClassVar[bool] = False
    clients_per_round: ClassVar[int | None] = None
    files: ClassVar[tuple[str, ...]] = ()
    has_personal: ClassVar[bool] = False
    counts_labels: bool = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.has_personal != (cls.personal is not Method.personal):
            raise TypeError(f"{cls.__name__}: set has_personal = True if and only if it overrides personal()")

    def __init__(self, context: Context, settings: Any) -> None:
        """Binds the method.

        Raises:
            UsageError: Data or settings the method cannot be used with.
        """
        self.context = context
        self.settings = settings

    @property
    def threads(self) -> int | None:
        """Useful number of CPU threads; None: all."""
        return None

    def shared(self) -> State:
        """The server's state before the first round; empty if nothing is shared."""
        return {}

    def personal(self, client: int) -> State:  # noqa: ARG002
        """A client's own state before its first round, with the same names at every client.

        Args:
            client: Its place in the context; at a site it is the only one. Draws take ``context.number(client)``.
        """
        return {}

    def sent_to(self, client: int, server: State) -> State:  # noqa: ARG002
        """The state that a client receives, to train and to be evaluated: by default the server's.

        Args:
            client: Its number in the whole federation.
            server: The server's state; not to be changed in place.
        """
        return server

    @property
    def sends_all_the_same(self) -> bool:
        """Whether every client receives the server's state: the class leaves ``sent_to`` as it is."""
        return type(self).sent_to is Method.sent_to

    def received(self, client: int, shared: State) -> State:
        """The state that a client received, for ``evaluate``; at a site, ``shared`` is it already."""
        return shared if self.context.numbers else self.sent_to(client, shared)

    def sent_back(self, server: State) -> State:
        """Tensors like those that a client sends back, to check what comes; by default the server's state.

        Only the names, shapes and types count.
        """
        return server

    def train(self, shared: State, personal: Sequence[State], clients: Sequence[int], round_: int) -> Iterator[Update]:
        """Trains a cohort, every client from the same ``shared`` and its own ``personal`` state.

        Args:
            shared: The state that the clients received, see ``sent_to``; not to be changed in place. A method that
                overrides ``sent_to`` gets cohorts of one.
            personal: The state of each of ``clients``; not to be changed in place.
            clients: Numbers of the clients of the cohort; all have training rows.
            round_: Which round, from 1.

        Yields:
            An update a client, in the order of ``clients``. Its shared tensors are as ``sent_back`` says, and its
            personal ones have the names that ``personal`` gives.
        """
        raise NotImplementedError

    def aggregate(self, server: State, updates: Iterable[Update]) -> State:
        """The server's state after a round: by default the weighted mean of the tensors that clients sent.

        Args:
            server: Its state before; not to be changed in place.
            updates: At least one, in the order of the clients' numbers, without personal states. They are trained
                while they are read, so that an average needs no memory for all of them, and can be read once: a
                method that needs them twice first makes a list.

        Returns:
            Every tensor of ``server``, with the same name, shape and type: also those that a base class adds to the
            method's own, such as ``bias`` of prompt methods on multi-label data.
        """
        return weighted_mean(server, ((update.shared, update.weight) for update in updates))

    def evaluate(self, shared: State, personal: Callable[[int], State], split: str) -> Evaluation:
        """Evaluates the model.

        Args:
            shared: The server's state; at a site, the state that its client received. See ``received``.
            personal: Gives the personal state of a client.
            split: A held-out split of the subset.
        """
        raise NotImplementedError


@runtime_checkable
class Ranked(Protocol):
    """A method that may rank rows across clients (for metrics such as mAP), which is no average of clients' own.

    Attributes:
        ranks: Whether it does, on its data.
    """

    @property
    def ranks(self) -> bool: ...  # noqa: D102

    def scores(self, shared: State, personal: Callable[[int], State], split: str) -> State:
        """Scores of the model for every row, and the truth: tensors with a row for each, ``owner`` among them.

        ``shared`` and ``personal`` are as in ``Method.evaluate``: each client is scored with the state that it
        received. ``owner`` is int64 ``[N]``, the client of each row.
        """
        ...

    def figures(self, scores: State) -> Evaluation:
        """The result of ``evaluate``, from the scores of a whole split in the order of the clients."""
        ...


def ranks(method: Method) -> TypeGuard[Ranked]:
    """Whether a method's metrics need the scores of all rows together."""
    return isinstance(method, Ranked) and method.ranks


def label_space(context: Context, labels: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names of the labels and training rows of each.

    Raises:
        UsageError: The subset has no finer labels.
    """
    entry = context.subset.entry
    if labels == "coarse":
        return entry.classes, entry.train_counts
    if entry.fine is None:
        raise UsageError(f"labels=fine: {context.subset.name} has no finer labels; use labels=coarse")
    return entry.fine.classes, entry.fine.train_counts
