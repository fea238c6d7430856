"""The server: the usual rounds, with clients reached over a Flower grid."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Event
from typing import ClassVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedrsic_data.answer import plain
from fedrsic_data.dataset.manifest import FineEntry
from fedrsic_data.errors import FedkitError, UsageError
from fedrsic_data.registry import is_path
from fedtrain.config import Privacy, RunConfig
from fedtrain.engines import rounds
from fedtrain.engines.base import Outcome, Training
from fedtrain.engines.flower import merge, privacy, wire
from fedtrain.engines.flower.site import label_space
from fedtrain.methods import METHODS
from fedtrain.methods.base import Evaluation, Method, State, Update, ranks
from fedtrain.runs.files import METRICS

_POLLS = (0.05, 2.0)  # seconds from one look for replies to the next: at first, at last
_LOOK = 1.0  # seconds between looks for nodes
_JOINED = 120.0  # seconds that a node has to say which clients it has


@dataclass
class Link:
    """Connection from the server to sites.

    Attributes:
        grid: Flower's.
        stop: When it is set, no more answers come.
    """

    grid: Grid
    stop: Event = field(default_factory=Event)

    def ask(self, messages: Sequence[Message], timeout: float) -> list[Message]:
        """The replies that come in time, in the order in which they come; errors are among them.

        Raises:
            FedkitError: The run was stopped: what came is half a round.
        """
        waiting = set(self.grid.push_messages(messages))
        deadline, pause = time.monotonic() + timeout, _POLLS[0]
        found: list[Message] = []
        while waiting and time.monotonic() < deadline and not self.stop.wait(pause):
            for reply in self.grid.pull_messages(sorted(waiting)):
                found.append(reply)
                waiting.discard(reply.metadata.reply_to_message_id)
            pause = min(pause * 1.5, _POLLS[1])
        if self.stop.is_set():
            raise FedkitError("the run was stopped; run the same command again to resume")
        return found


def check(config: RunConfig) -> None:
    """Refuse a config that cannot run over Flower, simulated or not.

    Raises:
        UsageError: It evaluates clients on rows of others, or trains on the rows of all clients together.
    """
    method = METHODS.at(config.method) if is_path(config.method) else METHODS[config.method]
    if method.gathers_rows:
        raise UsageError(
            f"{config.method}: trains on the rows of all clients together, but over Flower none leaves its site; use "
            "--engine local"
        )
    if config.held_out is not None or config.neighbour:
        what = "neighbour=true" if config.neighbour else f"held_out={config.held_out}"
        raise UsageError(
            f"{what}: evaluates each client's model on rows of other clients, but over Flower "
            "neither leaves its site; use --engine local"
        )


@dataclass(frozen=True)
class Deployment:
    """Trains over a Flower grid whose nodes are there; see ``engines.base.Engine``.

    Attributes:
        link: Reaches the nodes.
    """

    link: Link
    name: ClassVar[str] = "federation"
    at_sites: ClassVar[bool] = True

    def check(self, config: RunConfig) -> None:
        """Refuse a config that cannot run at real sites.

        Raises:
            UsageError: It holds out a domain, or sites would add noise that the server can subtract.
        """
        check(config)
        if config.dp.epsilon is not None and config.dp.seed is not None:
            raise UsageError(
                f"dp.seed={config.dp.seed}: the server knows it and could subtract the noise that real sites add; "
                "leave it out, or rehearse with --engine flower"
            )

    def run(self, training: Training) -> Outcome:
        """Train round by round; the method here only gives the start and, of scores, figures.

        Raises:
            UsageError: The method and the dataset do not work over Flower.
            FedkitError: Sites are missing at the start, or no sampled client answered.
            OutputError: The checkpoint is damaged or belongs to another run, or the disk is full.
        """
        # sites keep the personal states of the newest checkpoint only
        training = replace(training, config=replace(training.config, checkpoint_every=1))
        _check_method(training)
        at = rounds.start(training)
        sites = Sites(self.link, training, at.personal)
        sites.wait()
        done = rounds.run(sites, training, at)
        lines = [json.loads(line) for line in (training.folder / METRICS).read_text(encoding="utf-8").splitlines()]
        releases = [line["clients"] for line in lines if line["clients"]]
        able = sum(n > 0 for n in training.context.rows)
        return replace(done, facts=privacy.spent(training.config.dp, releases, able))


def _check_method(training: Training) -> None:
    config, subset = training.config, training.context.subset
    if config.dp != Privacy():
        method, kind = training.method, type(training.method)
        if not method.shared():
            raise UsageError(f"dp: {config.method} shares no parameters, so there is nothing to add noise to")
        if not method.sends_all_the_same or kind.sent_back is not Method.sent_back:
            raise UsageError(
                f"dp: clients of {config.method} send back other tensors than they receive, but noise is added to "
                "changes of the same tensors; leave dp out"
            )
        if config.dp.noise is not None and kind.aggregate is not Method.aggregate:
            raise UsageError(
                f"dp.noise={config.dp.noise}: {config.method} aggregates updates in its own way, but noise is added to "
                "their plain mean; use dp.epsilon, or leave it out"
            )
    if subset.entry.novel:
        raise UsageError(
            f"{config.subset}: base-to-novel evaluates each client's prompt on rows of other clients, "
            "but over Flower neither leaves its site; use --engine local"
        )
    if training.method.counts_labels and not any(subset.entry.train_counts):
        raise UsageError(
            f"{config.method}: weights labels by the training rows of all clients, which {config.manifest} does not "
            "list; give the server the manifest of the whole dataset"
        )


class Sites:
    """Clients behind a grid; see ``rounds.Clients``."""

    def __init__(self, link: Link, training: Training, since: Mapping[int, int]) -> None:
        context, config, method = training.context, training.config, training.method
        self._link = link
        self._method = method
        self._context = context
        self._config = config
        self._key = training.key
        self._since = dict(since)  # client -> round that its personal state is of
        self._listener = training.listener
        self._labels = label_space(context.subset.dataset, config.subset)
        entry = context.subset.entry
        counted = method.counts_labels
        self._counts = entry.train_counts if counted else ()
        self._ranks = entry.fine.train_counts if counted and entry.fine else _ranks(entry.fine)
        self._number = {name: number for number, name in enumerate(context.clients)}
        self._nodes: dict[int, int] = {}  # client -> node
        self._met: set[int] = set()
        self._begun = False
        self._central: privacy.Central | None = None
        self._replies: dict[int, Message] = {}

    def wait(self) -> None:
        """Wait for the sites of all clients with rows.

        Raises:
            FedkitError: Some are missing after ``flower.wait`` seconds.
        """
        wanted = [client for client, rows in enumerate(self._context.rows) if rows]
        deadline = time.monotonic() + self._config.flower.wait
        self._listener.say(f"waiting for the sites of {len(wanted)} clients")
        while True:
            self._meet()
            missing = [client for client in wanted if client not in self._nodes]
            if not missing:
                self._begun = True
                return
            if time.monotonic() > deadline or self._link.stop.wait(_LOOK):
                names = ", ".join(self._context.clients[client] for client in missing[:5])
                raise FedkitError(
                    f"{len(missing)} of {len(wanted)} clients have no site after {self._config.flower.wait:g} s "
                    f"({names}{', ...' if len(missing) > 5 else ''}); start their nodes, and run the same command"
                )

    def train(self, shared: State, clients: Sequence[int], round_: int) -> Iterator[Update]:
        """Train clients at their sites; see ``rounds.Clients.train``."""
        self._meet()
        arrays = self._arrays(clients, shared)
        if self._config.dp.noise is None:
            messages = self._messages(MessageType.TRAIN, clients, round_, (), arrays, ConfigRecord())
        else:
            self._central = privacy.Central(
                self._config.dp,
                round_,
                len(clients),
                lambda sent, told: self._messages(
                    MessageType.TRAIN, clients, round_, (), dict.fromkeys(clients, sent), told
                ),
            )
            messages = self._central.messages(wire.arrays(shared), self._link.grid)
        self._replies, like = self._answers(messages, round_), self._method.sent_back(shared)
        for client in sorted(self._replies):
            try:
                update = wire.updated(self._replies[client].content, client, like, self._context.rows[client])
            except Exception as error:  # a site may send anything
                self._lost(client, round_, f"its answer cannot be used ({_why(error)})")
            else:
                yield update

    def keep(self, update: Update, round_: int) -> None:
        """Accept an update as its client's new state; see ``rounds.Clients.keep``."""
        if self._method.has_personal:
            self._since[update.client] = round_

    def aggregate(self, server: State, updates: Iterable[Update]) -> State:
        """Aggregate updates; with central privacy, the noisy mean. See ``rounds.Clients.aggregate``."""
        if self._central is None:
            return self._method.aggregate(server, updates)
        noisy = self._central.noisy([self._replies[update.client] for update in updates], self._context.device)
        return {n: noisy[n].to(value) if value.is_floating_point() else value for n, value in server.items()}

    def evaluate(self, shared: State, splits: Sequence[str], round_: int) -> dict[str, Evaluation]:
        """Evaluate the model at every client with held-out rows; see ``rounds.Clients.evaluate``.

        Raises:
            FedkitError: None of them answered.
        """
        self._meet()
        subset, count = self._context.subset, len(self._context.clients)
        rows = {n: {s: subset.client(c).rows(s) for s in splits} for n, c in enumerate(self._context.clients)}
        held = [n for n, of in rows.items() if any(of.values())]
        messages = self._messages(
            MessageType.EVALUATE, held, round_, tuple(splits), self._arrays(held, shared), ConfigRecord()
        )
        found: dict[str, dict[int, wire.Judged]] = {split: {} for split in splits}
        for client, reply in sorted(self._answers(messages, round_).items()):
            try:
                said = wire.read_judged(reply.content, rows[client])
            except Exception as error:  # a site may send anything
                self._lost(client, round_, f"its metrics cannot be used ({_why(error)})")
                continue
            for split, one in said.items():
                found[split][client] = one
        if held and not any(found.values()):
            raise FedkitError(
                f"round {round_}: none of the {len(held)} clients with held-out rows could evaluate; check that sites "
                "run, and run the same command again to resume"
            )
        method = self._method
        if self._config.flower.scores and ranks(method):
            return {split: merge.ranked(method, said) for split, said in found.items()}
        return {split: merge.merged(said, count) for split, said in found.items()}

    def flush(self) -> dict[int, int]:
        """Rounds of the clients' states, which sites write at once; see ``rounds.Clients.flush``."""
        return dict(self._since)

    def prune(self) -> None:
        """Do nothing: sites remove old states at the next order. See ``rounds.Clients.prune``."""

    def _meet(self) -> None:
        """Update the list of nodes and their clients."""
        there = set(self._link.grid.get_node_ids())
        self._met &= there
        self._nodes = {client: node for client, node in self._nodes.items() if node in there}
        content = RecordDict({wire.CONFIG: ConfigRecord({"subset": self._config.subset})})
        new = sorted(there - self._met)
        asks = [Message(content, dst_node_id=node, message_type=wire.JOIN) for node in new]
        for reply in self._link.ask(asks, _JOINED) if asks else []:
            node = reply.metadata.src_node_id
            self._met.add(node)
            if reply.has_error():
                self._note(f"a site cannot take part: {reply.error.reason}")
                continue
            try:
                clients, labels = wire.joined(reply.content)
            except Exception as error:  # a site may send anything
                self._note(f"a site cannot take part: its answer cannot be used ({_why(error)})")
                continue
            for name, n in clients:
                if words := self._refused(name, n, labels, node):
                    self._note(f"{name}: its site cannot take part: {words}")
                else:
                    self._nodes[self._number[name]] = node

    def _refused(self, name: str, rows: object, labels: str, node: int) -> str:
        """Describe why a client of a site cannot take part, if so."""
        if labels != self._labels:
            return "its dataset has another label space, or another name"
        if name not in self._number:
            return "the server's manifest has no such client"
        number = self._number[name]
        if rows != self._context.rows[number]:
            return f"it has {rows} training rows, the server's manifest says {self._context.rows[number]}"
        if self._nodes.get(number, node) != node:
            if not self._begun:  # later, the older one may be dead and not known for it yet
                raise FedkitError(f"{name}: two nodes claim this client; stop one of them, and run the same command")
            return "another node has it already"
        return ""

    def _arrays(self, clients: Sequence[int], server: State) -> dict[int, ArrayRecord]:
        """The state that is sent to each client; one record for all of them unless the method tells them apart."""
        if self._method.sends_all_the_same:
            return dict.fromkeys(clients, wire.arrays(server))
        return {client: wire.arrays(self._method.sent_to(client, server)) for client in clients}

    def _messages(
        self,
        kind: str,
        clients: Sequence[int],
        round_: int,
        splits: tuple[str, ...],
        arrays: Mapping[int, ArrayRecord],
        told: ConfigRecord,
    ) -> list[Message]:
        """A message for each client whose node is there."""
        messages = []
        for client in clients:
            if client not in self._nodes:
                self._lost(client, round_, "its site is not there")
                continue
            name, since = self._context.clients[client], self._since.get(client, 0)
            order = wire.Order(self._config, self._key, name, client, round_, since, splits, self._ranks, self._counts)
            config = wire.order(order)
            config.update(told)
            content = RecordDict({wire.ARRAYS: arrays[client], wire.CONFIG: config})
            messages.append(Message(content, dst_node_id=self._nodes[client], message_type=kind, group_id=str(client)))
        return messages

    def _answers(self, messages: Sequence[Message], round_: int) -> dict[int, Message]:
        """Client -> its reply, for those that answered."""
        asked = {message.metadata.group_id: message for message in messages}
        found = {}
        for reply in self._link.ask(messages, self._config.flower.timeout) if messages else []:
            of = reply.metadata.group_id
            if of not in asked or reply.metadata.src_node_id != asked[of].metadata.dst_node_id:
                continue
            if reply.has_error():
                self._lost(int(of), round_, reply.error.reason or "its site failed")
                asked.pop(of)
                if reply.error.code != wire.FAILED:  # the node may be gone: look again
                    self._met.discard(reply.metadata.src_node_id)
            else:
                found[int(of)] = reply
        for client in sorted({int(of) for of in asked} - found.keys()):
            self._lost(client, round_, f"it did not answer within {self._config.flower.timeout:g} s")
        return found

    def _lost(self, client: int, round_: int, words: str) -> None:
        words = " ".join(words.split())[:300]
        self._note(f"round {round_}: {self._context.clients[client]}: {words}; left out")

    def _note(self, words: str) -> None:
        """Report in one line, without control characters: sites wrote much of it."""
        self._listener.note(plain(" ".join(words.split()))[:500])


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def _ranks(fine: FineEntry | None) -> tuple[int, ...]:
    """The order for a client; see ``wire.Order``."""
    if fine is None:
        return ()
    held = [number for number, count in enumerate(fine.train_counts) if count]
    order = sorted(held, key=lambda number: (-fine.train_counts[number], fine.classes[number]))[::-1]  # ties by name
    place = {number: rank for rank, number in enumerate(order, 1)}
    return tuple(place.get(number, 0) for number in range(len(fine.classes)))
