"""Flower's two sides over a grid of this process: the figures of the local engine, and what crosses the wire."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from apart_builds import apart
from conftest import sampled
from small_backbone import small_backbone
from softmax_runs import lines

if find_spec("flwr") is None:
    pytest.skip("needs fedrsic[distributed]", allow_module_level=True)

from flower_grid import HereGrid
from flwr.app import Message, RecordDict
from test_derive_sites import flair

from fedrsic_data.dataset import manifest
from fedrsic_data.derive import sites
from fedrsic_data.errors import FedkitError, OutputError, UsageError
from fedtrain import methods, run
from fedtrain.config import NEUTRAL, RunConfig
from fedtrain.engines.flower import merge, privacy, server, wire
from fedtrain.engines.flower.wire import Judged
from fedtrain.federation import app
from fedtrain.methods.base import Evaluation, State, Update
from fedtrain.methods.fedavg import FedAvg
from fedtrain.methods.fedpgp import FedPGP
from fedtrain.methods.promptfl import PromptFL
from fedtrain.models import label_transformer
from fedtrain.progress import Listener
from fedtrain.runs.files import CHECKPOINT
from fedtrain.runs.state import load_state

pytestmark = pytest.mark.distributed

PROMPTS = ("length=8", "epochs=1", "device=cpu")
NETWORK = ("image_size=64", "epochs=1", "device=cpu", "clients_per_round=4", "heads=2", "layers=1", "hidden=64")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(label_transformer, "backbone", small_backbone)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, and beside it ``sites`` with a folder a client."""
    top = tmp_path_factory.mktemp("single")
    whole = sampled(top / "fed", "clients=4").path
    sites.split(whole, top / "sites")
    return whole


@pytest.fixture(scope="module")
def multi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with multi-label images."""
    top = tmp_path_factory.mktemp("multi")
    whole = flair(top / "fed")
    sites.split(whole, top / "sites")
    return whole


def grid_of(whole: Path, states: Path, **more: object) -> HereGrid:
    """A node for each site's folder, not in the order of the clients."""
    folders = sorted(p for p in (whole.parent / "sites").iterdir() if p.name != sites.SERVER)[::-1]
    cache = whole.parent / "cache"
    told = {"state-dir": str(states), **more}
    return HereGrid(
        app.site_app(cache), [{"manifest": str(f), **{k: v for k, v in told.items() if v}} for f in folders]
    )


def trained(
    method: str, manifest: Path, out: Path, *sets: str, grid: HereGrid | None = None, notes: list[str] | None = None
) -> Any:
    (config,) = run.configs(method, manifest, [], list(sets))
    more = {"engine": server.Deployment(server.Link(grid))} if grid else {}
    listener = Listener(note=(notes if notes is not None else []).append)
    cache = manifest.parent / "cache" if manifest.name != sites.SERVER else manifest.parent.parent / "cache"
    return run.train(config, out, cache=cache, listener=listener, **more)


def close(left: dict, right: dict) -> None:
    """The same keys, and numbers that agree to 1e-6."""
    assert left.keys() == right.keys()
    for name, value in left.items():
        if isinstance(value, float) and right[name] is not None:
            assert math.isclose(value, right[name], rel_tol=1e-6, abs_tol=1e-6), (name, value, right[name])
        elif isinstance(value, dict):
            close(value, right[name])
        else:
            assert value == right[name], name


@pytest.mark.parametrize(
    "method",
    [
        "clip-full",
        "fedclip",
        "fedpgp",
        "fedrsclip",
        "finetuned",
        "linear-probe",
        "local",
        "promptfl",
        "promptfolio",
        "zeroshot",
    ],
)
def test_the_same_as_the_local_engine(single: Path, tmp_path: Path, method: str) -> None:
    """A server without images and sites that have their own rows only come to the metrics of one process with all."""
    sets = (
        *(PROMPTS[1:] if method in ("clip-full", "fedclip", "linear-probe") else PROMPTS),
        "rounds=3",
        "clients_per_round=3",
        "sampling=size",
        "dropout=0.1",
    )
    sets = ("rounds=0", "device=cpu") if method == "zeroshot" else sets
    here = trained(method, single, tmp_path / "local", *sets)
    there = trained(
        method,
        single.parent / "sites" / "server",
        tmp_path / "flower",
        *sets,
        grid=grid_of(single, tmp_path / "states"),
    )
    for left, right in zip(lines(tmp_path / "local"), lines(tmp_path / "flower"), strict=True):
        close(left, right)
    close(here.data["figures"], there.data["figures"])
    close(here.data["clients"], there.data["clients"])
    assert here.data["counters"] == there.data["counters"]
    assert here.facts["group"] == there.facts["group"]
    if method != "zeroshot":
        shared = [
            load_state(p / CHECKPOINT / "state.safetensors", torch.device("cpu"))[0]
            for p in (here.folder, there.folder)
        ]
        for name, value in shared[0].items():
            assert torch.allclose(value, shared[1][name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["fedotp", "fedtpg", "pfedmoap"])
def test_hooks_of_methods_work_over_flower(single: Path, tmp_path: Path, method: str) -> None:
    """Clients that receive other states each, and a server that aggregates in its own way, as in one process."""
    sets = ("length=4", "epochs=1", "device=cpu", "rounds=3", "clients_per_round=3", "dropout=0.1", "lr=0.05")
    here = trained(method, single, tmp_path / "local", *sets)
    grid = grid_of(single, tmp_path / "states")
    there = trained(method, single.parent / "sites" / "server", tmp_path / "flower", *sets, grid=grid)
    for left, right in zip(lines(tmp_path / "local"), lines(tmp_path / "flower"), strict=True):
        close(left, right)
    close(here.data["figures"], there.data["figures"])
    close(here.data["clients"], there.data["clients"])
    one, other = (
        load_state(p / CHECKPOINT / "state.safetensors", torch.device("cpu"))[0] for p in (here.folder, there.folder)
    )
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.allclose(value.float(), other[name].float(), rtol=0, atol=1e-5), name
    if method == "pfedmoap":
        asked = [m for m, _ in grid.sent if m.metadata.message_type == "train" and not m.metadata.reply_to_message_id]
        experts = [tensors(message.content)["arrays/experts"] for message in asked]
        assert {len(e) for e in experts[:3]} == {0}  # nobody trained before
        assert len({e.numpy().tobytes() for e in experts}) > 2  # clients receive other experts each
        names = {name for m, _ in grid.sent if m.metadata.message_type == "train" for name in tensors(m.content)}
        assert names == {"arrays/context", "arrays/experts"}  # neither the pool nor a gate


def test_several_datasets_are_judged_alike_over_flower(tmp_path: Path) -> None:
    """Each site judges its rows among the classes of its own; only the mean over datasets needs all clients."""
    whole = apart(tmp_path / "fed", "classes_per_client=12").path
    sites.split(whole, tmp_path / "sites")
    sets = ("length=4", "epochs=1", "device=cpu", "rounds=2", "lr=0.05")
    here = trained("fedtpg", whole, tmp_path / "local", *sets)
    grid = grid_of(whole, tmp_path / "states")
    there = trained("fedtpg", tmp_path / "sites" / "server", tmp_path / "flower", *sets, grid=grid)
    assert {"test/local/ucmerced/mean", "test/local/optimal31/mean", "test/shared"} < there.data["figures"].keys()
    figures = dict(here.data["figures"])
    assert figures.pop("test/local_datasets") > 0
    close(figures, there.data["figures"])
    close(here.data["clients"], there.data["clients"])


def test_networks_that_differ_by_client_are_judged_alike_over_flower(
    multi: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Apart(FedAvg):
        """The higher a client's number, the larger its parameters."""

        def sent_to(self, client: int, server: State) -> State:
            return {**server, "parameters": server["parameters"] * (1 + client / 10)}

    monkeypatch.setitem(methods.METHODS, "apart", Apart)
    sets, at = [*NETWORK[:4], "rounds=1"], multi.parent / "sites" / "server"
    here = trained("apart", multi, tmp_path / "local", *sets)
    there = trained("apart", at, tmp_path / "run", *sets, "flower.scores=true", grid=grid_of(multi, tmp_path / "s"))
    close(here.data["figures"], there.data["figures"])


def test_a_site_imports_no_module_that_a_server_names(
    single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method by its place is for this machine's own runs; sites run methods that are installed there."""
    (tmp_path / "of_the_server.py").write_text("from fedtrain.methods.promptfl import PromptFL as Mine\n")
    monkeypatch.syspath_prepend(tmp_path)
    at, sets = single.parent / "sites" / "server", ("length=4", "epochs=1", "device=cpu", "rounds=1")
    notes: list[str] = []
    with pytest.raises(FedkitError, match="none of the 4 sampled clients answered"):
        trained("of_the_server:Mine", at, tmp_path / "run", *sets, grid=grid_of(single, tmp_path / "s"), notes=notes)
    assert len(notes) == 4
    assert all("unknown method 'of_the_server:Mine'" in note for note in notes), notes


def test_a_site_refuses_a_method_that_forgets_personal_tensors(
    single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Forgetful(FedPGP):
        def train(self, *given: Any) -> Any:
            return (replace(update, personal={}) for update in super().train(*given))

    monkeypatch.setitem(methods.METHODS, "forgetful", Forgetful)
    at, notes = single.parent / "sites" / "server", list[str]()
    with pytest.raises(FedkitError, match="none of the 4 sampled clients answered"):
        trained("forgetful", at, tmp_path / "run", *PROMPTS, grid=grid_of(single, tmp_path / "s"), notes=notes)
    assert "Forgetful.train: personal tensors [] should be ['u', 'v']" in notes[0]


class OwnAggregate(PromptFL):
    """Its server does not move."""

    def aggregate(self, server: State, updates: Iterable[Update]) -> State:
        """Reads the first update only."""
        next(iter(updates))
        return server


def test_privacy_refuses_hooks_that_it_cannot_serve(
    single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, kind in {"own": OwnAggregate}.items():
        monkeypatch.setitem(methods.METHODS, name, kind)
    at, grid = single.parent / "sites" / "server", grid_of(single, tmp_path / "states")
    for method, sets, words in (
        ("pfedmoap", "dp.noise=1", "dp: clients of pfedmoap send back other tensors than they receive"),
        ("pfedmoap", "dp.epsilon=1", "dp: clients of pfedmoap send back other tensors than they receive"),
        ("own", "dp.noise=1", "dp.noise=1.0: own aggregates updates in its own way"),
    ):
        with pytest.raises(UsageError, match=words):
            trained(method, at, tmp_path / "run", *PROMPTS, "rounds=1", sets, grid=grid)
    done = trained("own", at, tmp_path / "own", *PROMPTS, "rounds=1", "dp.epsilon=1", grid=grid)
    assert done.data["counters"]["updates"] == 4  # all of them train, however many are read


@pytest.mark.parametrize("method", ["fedlgt", "fedavg"])
def test_multi_label_with_and_without_scores(multi: Path, tmp_path: Path, method: str) -> None:
    sets = [*(NETWORK if method == "fedlgt" else NETWORK[:4]), "rounds=2"]
    here = trained(method, multi, tmp_path / "local", *sets)
    at = multi.parent / "sites" / "server"
    whole = trained(
        method, at, tmp_path / "scores", *sets, "flower.scores=true", grid=grid_of(multi, tmp_path / "states")
    )
    close(here.data["figures"], whole.data["figures"])
    own = trained(method, at, tmp_path / "own", *sets, grid=grid_of(multi, tmp_path / "more"))
    both = own.data["figures"].keys() & here.data["figures"].keys()
    assert {name for name in both if name.startswith("test/O-F1 of clients/")}
    close({name: here.data["figures"][name] for name in both}, {name: own.data["figures"][name] for name in both})
    assert "test/C-AP" not in own.data["figures"]
    assert own.data["figures"]["test/C-AP/mean"] is not None
    assert not [name for name in own.data["figures"] if "AP/" in name and name.split("/")[1] == "AP"]


# what crosses the wire


def tensors(content: RecordDict) -> dict[str, torch.Tensor]:
    return {
        f"{record}/{name}": value
        for record, arrays in content.array_records.items()
        for name, value in arrays.to_torch_state_dict().items()
    }


def numbers(content: RecordDict) -> dict[str, object]:
    return {f"{r}/{name}": value for r, metrics in content.metric_records.items() for name, value in metrics.items()}


def raw(content: RecordDict) -> bytes:
    """All bytes of a content."""

    def walk(part: object) -> Iterator[bytes]:
        yield part.deflate()  # type: ignore[attr-defined]
        for child in (part.children or {}).values():  # type: ignore[attr-defined]
            yield from walk(child)

    return b"".join(walk(content))


@pytest.mark.parametrize("method", ["fedpgp", "fedrsclip"])
def test_only_what_is_shared_and_figures_leave_a_site(single: Path, tmp_path: Path, method: str) -> None:
    grid = grid_of(single, tmp_path / "states")
    trained(method, single.parent / "sites" / "server", tmp_path / "run", *PROMPTS, "rounds=2", grid=grid)
    replies = [message for message, _ in grid.sent if message.metadata.reply_to_message_id]
    shared = {"fedpgp": {"arrays/sigma"}, "fedrsclip": {"arrays/shared_prompt"}}[method]
    kinds = {"query.join": 0, "train": 0, "evaluate": 0}
    for reply in replies:
        kind = reply.metadata.message_type
        kinds[kind] += 1
        assert set(tensors(reply.content)) == (shared if kind == "train" else set())
        said = numbers(reply.content)
        if kind == "train":
            assert set(said) == {"metrics/rows", "metrics/loss", "metrics/finite", "metrics/weight"}
        elif kind == "evaluate":
            names = {"metrics/pooled", "metrics/shared", "clients/local", "over/pooled", "over/shared", "rows/rows"}
            assert set(said) == {f"test/{name}" for name in names}
            assert all(isinstance(value, int | float) for value in said.values())
        else:
            assert set(said) == {"metrics/rows"}
            assert set(reply.content.config_records["config"]) == {"clients", "labels"}
        if kind != "query.join":
            assert not reply.content.config_records
    assert kinds == {"query.join": 4, "train": 8, "evaluate": 8}
    crossed = b"".join(raw(message.content) for message, _ in grid.sent)
    kept = sorted((tmp_path / "states").glob("*/client-*.safetensors"))
    assert {p.name[:12] for p in kept} == {f"client-{k:05d}" for k in range(4)}
    for path in kept:
        for name, value in load_state(path, torch.device("cpu"))[0].items():
            assert value.numpy().tobytes() not in crossed, f"{path.name}: {name}"
    server_state = load_state(tmp_path / "run" / CHECKPOINT / "state.safetensors", torch.device("cpu"))[0]
    assert {f"arrays/{name}" for name in server_state} == shared
    assert not (tmp_path / "run" / CHECKPOINT / "personal").exists()


@pytest.mark.parametrize("labels", ["coarse", "fine"])
def test_weights_of_labels_are_those_of_all_clients(multi: Path, tmp_path: Path, labels: str) -> None:
    sets = (*NETWORK, f"labels={labels}", "class_weights=inverse", "rounds=1", "flower.scores=true")
    here = trained("fedlgt", multi, tmp_path / "local", *sets)
    at, grid = multi.parent / "sites" / "server", grid_of(multi, tmp_path / "states")
    with pytest.raises(UsageError, match="does not list; give the server the manifest of the whole dataset"):
        trained("fedlgt", at, tmp_path / "flower", *sets, grid=grid)
    there = trained("fedlgt", multi, tmp_path / "whole", *sets, grid=grid)
    for left, right in zip(lines(tmp_path / "local"), lines(tmp_path / "whole"), strict=True):
        close(left, right)
    close(here.data["figures"], there.data["figures"])
    plain = grid_of(multi, tmp_path / "more")
    trained("fedlgt", at, tmp_path / "plain", *NETWORK, "rounds=1", grid=plain)
    counts = tuple(manifest.load(multi).subsets["flair"].train_counts)
    for sent, wanted in ((grid.sent, counts), (plain.sent, ())):
        orders = [
            wire.ordered(message.content.config_records[wire.CONFIG])
            for message, _ in sent
            if message.metadata.message_type == "train" and not message.metadata.reply_to_message_id
        ]
        assert len(orders) == 4
        assert {order.counts for order in orders} == {wanted}


def test_scores_and_labels_only_when_asked_for(multi: Path, tmp_path: Path) -> None:
    found = {}
    for asked in (False, True):
        grid = grid_of(multi, tmp_path / str(asked))
        sets = (*NETWORK, "rounds=1", f"flower.scores={str(asked).lower()}")
        trained("fedlgt", multi.parent / "sites" / "server", tmp_path / f"run-{asked}", *sets, grid=grid)
        replies = [m for m, _ in grid.sent if m.metadata.reply_to_message_id and m.metadata.message_type == "evaluate"]
        found[asked] = {name.partition("/")[2] for reply in replies for name in tensors(reply.content)}
        names = {name for reply in replies for name in numbers(reply.content)}
        assert not [name for name in names if name.startswith("test/metrics/AP/")]  # NaN would tell which labels occur
    assert found == {False: set(), True: {"scores/scores", "scores/targets", "scores/owner"}}


# sites that come, go and fail


def test_a_site_that_dies_in_a_round_is_left_out_and_comes_back_with_its_state(single: Path, tmp_path: Path) -> None:
    """Killed after it trained and before it answered; restarted as another node with nothing but its folder."""
    grid, states, notes = grid_of(single, tmp_path / "states"), tmp_path / "states", []
    victim = min(grid.nodes)  # of client-0003, the last of four
    seen: dict[int, list[int]] = {}

    def intercept(message: Message) -> None:
        if message.metadata.message_type != "train":
            return
        told = message.content.config_records["config"]
        seen.setdefault(int(told["round"]), []).append(int(told["since"]))
        if told["round"] == 2 and message.metadata.dst_node_id == victim:
            grid.app(message, grid.nodes[victim])
            grid.dead.add(victim)
        if told["round"] == 3 and victim in grid.nodes:
            context = grid.nodes.pop(victim)
            context.state = RecordDict()
            context.node_id = 999
            grid.nodes[999] = context

    grid.intercept = intercept
    sets = (*PROMPTS, "rounds=4", "flower.timeout=1")
    trained("fedpgp", single.parent / "sites" / "server", tmp_path / "run", *sets, grid=grid, notes=notes)
    logged = lines(tmp_path / "run")
    assert [line["clients"] for line in logged] == [4, 3, 3, 4]
    assert [line["dropped"] for line in logged] == [0, 1, 1, 0]
    assert any("round 2: client-0003: it did not answer" in note for note in notes)
    assert seen[4] == [3, 3, 3, 1]  # it goes on from what the server last had of it, not from the start
    files = sorted(p.name for p in states.glob("*/client-00003-*"))
    assert files == ["client-00003-round-00004.safetensors"] or "client-00003-round-00004.safetensors" in files


def test_a_server_that_dies_goes_on_to_the_bit(single: Path, tmp_path: Path) -> None:
    at, sets = single.parent / "sites" / "server", (*PROMPTS, "rounds=4")
    whole = trained("fedpgp", at, tmp_path / "whole", *sets, grid=grid_of(single, tmp_path / "a"))
    grid = grid_of(single, tmp_path / "b")

    def intercept(message: Message) -> None:
        told = message.content.config_records["config"]
        if message.metadata.message_type == "evaluate" and told["round"] == 3:
            grid.app(
                message, grid.nodes[message.metadata.dst_node_id]
            )  # a site that judged has what the server has not
            raise KeyboardInterrupt

    grid.intercept = intercept
    with pytest.raises(KeyboardInterrupt):
        trained("fedpgp", at, tmp_path / "run", *sets, grid=grid)
    assert not (tmp_path / "run" / "result.json").exists()
    fresh = grid_of(single, tmp_path / "b")  # the nodes were restarted too
    again = trained("fedpgp", at, tmp_path / "run", *sets, grid=fresh)
    assert again.data["figures"] == whole.data["figures"]
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


def test_more_rounds_go_on_over_flower(single: Path, tmp_path: Path) -> None:
    at = single.parent / "sites" / "server"
    whole = trained("fedpgp", at, tmp_path / "whole", *PROMPTS, "rounds=3", grid=grid_of(single, tmp_path / "a"))
    trained("fedpgp", at, tmp_path / "run", *PROMPTS, "rounds=2", grid=grid_of(single, tmp_path / "b"))
    again = trained("fedpgp", at, tmp_path / "run", *PROMPTS, "rounds=3", grid=grid_of(single, tmp_path / "b"))
    assert again.data["figures"] == whole.data["figures"]
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


@pytest.mark.parametrize("kind", ["query.join", "train", "evaluate"])
def test_garbage_from_one_site_costs_that_site_alone(single: Path, tmp_path: Path, kind: str) -> None:
    grid, notes, spoilt = grid_of(single, tmp_path / "states"), [], []
    victim = min(grid.nodes)
    deliver = grid.app

    def deliver_spoilt(message: Message, context: object) -> Message:
        reply = deliver(message, context)
        if message.metadata.message_type == kind and message.metadata.dst_node_id == victim:
            spoilt.append(kind)
            for record in reply.content.metric_records.values():
                for name in record:
                    record[name] = math.inf
        return reply

    grid.app = deliver_spoilt
    at, sets = single.parent / "sites" / "server", (*PROMPTS, "rounds=1", "flower.wait=0.1")
    if kind == "query.join":
        with pytest.raises(FedkitError, match="1 of 4 clients have no site"):
            trained("fedpgp", at, tmp_path / "run", *sets, grid=grid, notes=notes)
    else:
        trained("fedpgp", at, tmp_path / "run", *sets, grid=grid, notes=notes)
        assert lines(tmp_path / "run")[-1]["clients"] == (3 if kind == "train" else 4)
    assert spoilt
    assert any("cannot be used" in note for note in notes), notes


def test_a_round_that_nobody_judges_ends_the_run(single: Path, tmp_path: Path) -> None:
    grid = grid_of(single, tmp_path / "states")

    def fail(message: Message) -> None:
        if message.metadata.message_type == "evaluate":
            raise RuntimeError("no")

    grid.intercept = fail
    with pytest.raises(FedkitError, match="round 1: none of the 4 clients with held-out rows could evaluate"):
        trained("fedpgp", single.parent / "sites" / "server", tmp_path / "run", *PROMPTS, "rounds=1", grid=grid)
    assert not (tmp_path / "run" / "result.json").exists()


def test_runs_that_share_a_folder_of_states_leave_each_other_alone(single: Path, tmp_path: Path) -> None:
    at, sets = single.parent / "sites" / "server", (*PROMPTS, "rounds=3")
    whole = trained("fedpgp", at, tmp_path / "whole", *sets, grid=grid_of(single, tmp_path / "a"))
    grid = grid_of(single, tmp_path / "b")

    def stop(message: Message) -> None:
        if message.content.config_records["config"].get("round") == 2:
            raise KeyboardInterrupt

    grid.intercept = stop
    with pytest.raises(KeyboardInterrupt):
        trained("fedpgp", at, tmp_path / "run", *sets, grid=grid)
    trained("fedpgp", at, tmp_path / "other", *sets, "lr=0.01", grid=grid_of(single, tmp_path / "b"))
    again = trained("fedpgp", at, tmp_path / "run", *sets, grid=grid_of(single, tmp_path / "b"))
    assert again.data["figures"] == whole.data["figures"]


def test_a_node_without_a_folder_keeps_its_state_while_it_lives(single: Path, tmp_path: Path) -> None:
    at, sets = single.parent / "sites" / "server", (*PROMPTS, "rounds=2")
    whole = trained("fedpgp", at, tmp_path / "whole", *sets, grid=grid_of(single, tmp_path / "a"))
    grid = grid_of(single, tmp_path / "no", **{"state-dir": ""})
    same = trained("fedpgp", at, tmp_path / "same", *sets, grid=grid)
    assert same.data["figures"] == whole.data["figures"]
    assert not (tmp_path / "no").exists()
    notes: list[str] = []
    grid = grid_of(single, tmp_path / "no", **{"state-dir": ""})

    def forget(message: Message) -> None:
        if message.content.config_records["config"].get("round") == 2:
            grid.nodes[message.metadata.dst_node_id].state = RecordDict()

    grid.intercept = forget
    with pytest.raises(FedkitError, match="round 2: none of the 4 sampled clients answered"):
        trained("fedpgp", at, tmp_path / "gone", *sets, grid=grid, notes=notes)
    assert any("its personal state of round 1 is gone; give the node a state-dir" in note for note in notes)


def test_sites_that_cannot_take_part(single: Path, multi: Path, tmp_path: Path) -> None:
    at, sets = single.parent / "sites" / "server", (*PROMPTS, "rounds=1", "flower.wait=0.1")
    (tmp_path / "file").touch()
    for change, words in (
        ({"manifest": str(tmp_path / "none")}, "does not exist"),
        ({"manifest": ""}, "the node's config has no manifest"),
        ({"manifest": str(multi)}, "no subset 'fed-ucmerced'"),
        ({"device": "abacus"}, "device='abacus' cannot be used"),
        ({"state-dir": str(tmp_path / "file")}, "state-dir='"),
        ({"staet-dir": "x"}, "unknown key 'staet-dir'"),
    ):
        notes: list[str] = []
        grid = grid_of(single, tmp_path / "states")
        grid.nodes[max(grid.nodes)].node_config.update(change)  # of client-0000
        with pytest.raises(FedkitError, match="1 of 4 clients have no site after 0.1 s"):
            trained("fedpgp", at, tmp_path / "run", *sets, grid=grid, notes=notes)
        assert any(words in note for note in notes), notes
    grid = grid_of(single, tmp_path / "states")
    grid.nodes[max(grid.nodes)].node_config["manifest"] = str(single.parent / "sites" / "client-0001")
    with pytest.raises(FedkitError, match="client-0001: two nodes claim this client"):
        trained("fedpgp", at, tmp_path / "run", *sets, grid=grid)


def test_answers_that_cannot_be_used(single: Path) -> None:
    like = {"sigma": torch.zeros(2, 3)}
    good = wire.update(Update(0, 5, {"sigma": torch.ones(2, 3)}, {}, 0.5), finite=True)
    update = wire.updated(good, 3, like, 5)
    assert (update.client, update.rows, update.loss, update.personal) == (3, 5, 0.5, {})
    for wrong, words in (
        ({"sigma": torch.zeros(3, 2)}, "its tensors differ"),
        ({"sigma": torch.zeros(2, 3).double()}, "its tensors differ"),
        ({"sigma": torch.zeros(2, 3), "extra": torch.zeros(1)}, "its tensors differ"),
    ):
        with pytest.raises(ValueError, match=words):
            wire.updated(wire.update(Update(0, 5, wrong, {}, 0.5), finite=True), 3, like, 5)
    with pytest.raises(ValueError, match="it trained on 5 rows, but has 4"):
        wire.updated(good, 3, like, 4)
    for name, number, words in (
        ("weight", 1e9, "its weight is"),
        ("weight", math.nan, "its weight is"),
        ("more", 1, "other fields than were requested"),
    ):
        more = wire.update(Update(0, 5, {"sigma": torch.ones(2, 3)}, {}, 0.5), finite=True)
        more.metric_records["metrics"][name] = number
        with pytest.raises(ValueError, match=words):
            wire.updated(more, 3, like, 5)
    with pytest.raises(ValueError, match="it has no metrics for val"):
        wire.read_judged(wire.judged({"test": Judged(Evaluation({}, {}, [1]))}), {"val": 1})
    for said, words in (
        (Evaluation({"pooled": 50.0}, {"local": [50.0]}, [9], {"pooled": 4}), "it evaluated 9 rows of test, but has 4"),
        (Evaluation({"pooled": 1e9}, {"local": [50.0]}, [4], {"pooled": 4}), "test/pooled=1e.09 is not a percentage"),
        (Evaluation({"pooled": 50.0}, {"local": [-1.0]}, [4], {"pooled": 4}), "test/local=-1 is not a percentage"),
        (Evaluation({"pooled": math.nan}, {}, [4], {"pooled": 4}), "test/pooled=nan is not a percentage"),
        (Evaluation({"pooled": 50.0}, {}, [4], {"pooled": 10**12}), "over 1e.12 rows, but it has 4"),
        (Evaluation({"pooled": 50.0}, {}, [4], {"other": 4}), "test/other is over 4 rows"),
    ):
        with pytest.raises(ValueError, match=words):
            wire.read_judged(wire.judged({"test": Judged(said)}), {"test": 4})
    short = wire.judged({"test": Judged(Evaluation({}, {}, [4]), {"owner": torch.zeros(3)})})
    with pytest.raises(ValueError, match="its scores for test do not cover 4 rows"):
        wire.read_judged(short, {"test": 4})
    assert math.isnan(wire.updated(wire.update(Update(0, 5, like, {}, 0.5), finite=False), 3, like, 5).loss)


def test_what_needs_the_rows_of_all_is_refused(single: Path, tmp_path: Path) -> None:
    (config,) = run.configs("fedpgp", single, [], ["held_out=x"])
    with pytest.raises(UsageError, match="held_out=x: evaluates each client's model on rows of other clients"):
        server.check(config)
    for sets, words in ((["dp.noise=1"], "use --engine flower"), (["dp.noise=1", "dp.epsilon=1"], "set one of them")):
        with pytest.raises(UsageError, match=words):
            trained("fedpgp", single, tmp_path / "run", *sets)
    with pytest.raises(UsageError, match=r"unknown key 'dp.niose' for fedpgp; did you mean 'dp.noise'"):
        run.configs("fedpgp", single, [], ["dp.niose=1"])
    assert "flower" in NEUTRAL


def test_figures_of_parts() -> None:
    parts = {
        2: Judged(Evaluation({"pooled": 50.0, "rank": 7.0}, {"local": [50.0]}, [4], {"pooled": 4})),
        0: Judged(Evaluation({"pooled": 100.0, "rank": 9.0}, {"local": [100.0]}, [2], {"pooled": 2})),
        1: Judged(Evaluation({"pooled": math.nan, "rank": math.nan}, {"local": [math.nan]}, [0], {"pooled": 0})),
    }
    whole = merge.merged(parts, 4)
    assert whole.metrics == {"pooled": pytest.approx(400 / 6)}
    assert whole.rows == [2, 0, 4, 0]
    assert whole.clients["local"][::2] == [100.0, 50.0]
    assert whole.clients["rank"][::2] == [9.0, 7.0]
    assert all(math.isnan(value) for value in whole.clients["rank"][1::2])


# privacy


def test_central_privacy_clips_at_the_sites_and_adds_noise_at_the_server(
    single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[float] = []
    normal = np.random.normal

    def noise(mean: float, deviation: float, shape: tuple[int, ...]) -> np.ndarray:
        drawn.append(deviation)
        return np.zeros(shape)

    monkeypatch.setattr(np.random, "normal", noise)
    at = single.parent / "sites" / "server"
    grid = grid_of(single, tmp_path / "states")
    sets = (*PROMPTS, "rounds=1", "dp.noise=0.5", "dp.clipping=1e-3")
    done = trained("fedpgp", at, tmp_path / "run", *sets, grid=grid)
    assert drawn == [pytest.approx(0.5 * 1e-3 / 4)]
    trains = [m for m, _ in grid.sent if m.metadata.message_type == "train"]
    start = tensors(trains[0].content)["arrays/sigma"]
    replies = [tensors(m.content)["arrays/sigma"] for m in trains if m.metadata.reply_to_message_id]
    assert [float((reply - start).norm()) for reply in replies] == [pytest.approx(1e-3, rel=1e-3)] * 4
    state = load_state(tmp_path / "run" / CHECKPOINT / "state.safetensors", torch.device("cpu"))[0]
    assert torch.allclose(state["sigma"], torch.stack(replies).mean(0), atol=1e-7)  # every client the same
    told = done.data["privacy"]
    assert (told["kind"], told["delta"]) == ("central", 1e-5)
    if find_spec("dp_accounting"):
        assert told["epsilon"] > 1
    monkeypatch.setattr(np.random, "normal", normal)
    with pytest.raises(OutputError, match="holds a run with dp"):
        trained("fedpgp", at, tmp_path / "run", *PROMPTS, "rounds=1", grid=grid)


def test_local_privacy_adds_noise_at_the_sites(single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[float] = []

    def noise(mean: float, deviation: float, shape: tuple[int, ...]) -> np.ndarray:
        drawn.append(deviation)
        return np.full(shape, 0.25)

    monkeypatch.setattr(np.random, "normal", noise)
    grid = grid_of(single, tmp_path / "states")
    sets = (*PROMPTS, "rounds=1", "dp.epsilon=5", "dp.clipping=1e-4", "dp.sensitivity=2")
    done = trained("promptfl", single.parent / "sites" / "server", tmp_path / "run", *sets, grid=grid)
    assert drawn == [pytest.approx(2 * math.sqrt(2 * math.log(1.25 / 1e-5)) / 5)] * 4
    trains = [m for m, _ in grid.sent if m.metadata.message_type == "train"]
    start = tensors(trains[0].content)["arrays/context"]
    replies = [tensors(m.content)["arrays/context"] for m in trains if m.metadata.reply_to_message_id]
    assert all(torch.allclose(reply, start + 0.25, atol=1e-3) for reply in replies)
    assert done.data["privacy"] == {"kind": "local, a round", "epsilon": 5.0, "delta": 1e-5}


@pytest.mark.parametrize(("method", "kind"), [("fedpgp", "dp.noise=0.5"), ("promptfl", "dp.epsilon=5")])
def test_noise_repeats_only_with_a_seed_of_its_own(single: Path, tmp_path: Path, method: str, kind: str) -> None:
    class Rehearsal(server.Deployment):  # as in the simulation, where sites and server are the same person's
        def check(self, config: RunConfig) -> None:
            server.check(config)

    def states(name: str, *more: str) -> dict[str, torch.Tensor]:
        (config,) = run.configs(method, single.parent / "sites" / "server", [], [*PROMPTS, "rounds=2", kind, *more])
        grid = grid_of(single, tmp_path / f"{name}-states")
        run.train(config, tmp_path / name, cache=single.parent / "cache", engine=Rehearsal(server.Link(grid)))
        return load_state(tmp_path / name / CHECKPOINT / "state.safetensors", torch.device("cpu"))[0]

    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, other = states("a", "dp.seed=3"), states("b", "dp.seed=3"), states("c", "dp.seed=4")
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    free, freed = states("d"), states("e")
    for name, value in first.items():
        assert torch.equal(value, again[name]), name
        assert not torch.equal(value, other[name]), name
        assert not torch.equal(free[name], freed[name]), name


def test_a_seed_for_noise_is_refused_where_it_protects_nobody(single: Path, tmp_path: Path) -> None:
    grid = grid_of(single, tmp_path / "states")
    for sets, words in (
        (["dp.seed=1"], "dp.seed=1: there is no noise to repeat"),
        (["dp.seed=-1", "dp.noise=1"], "dp.seed=-1 should be at least 0"),
        (["dp.seed=1", "dp.epsilon=5"], "dp.seed=1: the server knows it"),
    ):
        with pytest.raises(UsageError, match=words):
            trained("promptfl", single.parent / "sites" / "server", tmp_path / "run", *PROMPTS, *sets, grid=grid)
    assert not (tmp_path / "run").exists()


def test_base_to_novel_is_refused_before_any_site_is_asked(single: Path, tmp_path: Path) -> None:
    grid = grid_of(single, tmp_path / "states")
    novel = sampled(tmp_path / "novel", "clients=4", "base_to_novel=true").path
    with pytest.raises(UsageError, match="base-to-novel evaluates each client's prompt on rows of other clients"):
        trained("promptfl", novel, tmp_path / "run", *PROMPTS, "rounds=1", grid=grid)
    assert not grid.sent


def test_noise_on_nothing_is_refused(single: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="local shares no parameters"):
        trained("local", single, tmp_path / "run", *PROMPTS, "dp.noise=1", grid=grid_of(single, tmp_path / "states"))


@pytest.mark.skipif(find_spec("dp_accounting") is None, reason="needs flwr[dp]")
def test_epsilon_grows_with_rounds_and_falls_with_noise() -> None:
    from fedtrain.config import Privacy

    def epsilon(noise: float, rounds: int) -> float:
        return privacy.spent(Privacy(noise=noise), [4] * rounds, 10)["privacy"]["epsilon"]

    assert epsilon(1.0, 1) < epsilon(1.0, 10)
    assert epsilon(4.0, 10) < epsilon(1.0, 10)


def test_what_needs_rows_of_other_clients_is_refused() -> None:
    with pytest.raises(UsageError, match="centralised: trains on the rows of all clients together, but over Flower"):
        server.check(RunConfig("centralised", "data", "subset"))
    with pytest.raises(UsageError, match="neighbour=true: evaluates each client's model on rows of other clients"):
        server.check(RunConfig("fedpgp", "data", "subset", neighbour=True))
    server.check(RunConfig("finetuned", "data", "subset"))
