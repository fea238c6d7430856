"""The engine's loop over a small method: who is asked, what is averaged, what is refused, what is measured."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import textwrap
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import federated_softmax
import numpy as np
import pytest
import torch
from conftest import sampled
from federated_softmax import Softmax
from softmax_runs import config, final, lines

from fedrsic_data.dataset.reader import Subset
from fedrsic_data.errors import OutputError, PluginError, UsageError
from fedtrain import methods, resolve, run
from fedtrain.config import RunConfig, changed
from fedtrain.engines import chosen, participation, rounds
from fedtrain.engines.base import Engine
from fedtrain.engines.local import InProcess
from fedtrain.methods.aggregate import WeightedMean, weighted_mean
from fedtrain.methods.base import Evaluation, Update
from fedtrain.progress import Listener
from fedtrain.runs.results import learned
from fedtrain.runs.state import PersonalStore, load_state


@pytest.fixture(autouse=True)
def _softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setitem(methods.METHODS, "softmax", Softmax)
    Softmax.trained.clear()


def test_every_engine_has_the_shape_that_is_declared() -> None:
    kinds = [InProcess]
    if find_spec("flwr"):
        kinds.append(importlib.import_module("fedtrain.engines.flower.server").Deployment)
        kinds += [type(chosen("flower"))] * (find_spec("ray") is not None)
    for kind in kinds:
        assert dataclasses.is_dataclass(kind)
        assert isinstance(kind.name, str)
        assert kind.at_sites in (True, False)
        for method in ("check", "run"):
            assert inspect.signature(getattr(kind, method)) == inspect.signature(getattr(Engine, method)), kind


def test_the_example_of_an_engine_trains(
    sample_build: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = textwrap.dedent(Engine.__doc__.partition("another one::\n\n")[2].partition("        ``run.train")[0])
    scope = {**vars(importlib.import_module("fedtrain.engines.base")), "dataclass": dataclass, "InProcess": InProcess}
    exec(code, scope)
    done = run.train(config(sample_build, "rounds=1"), tmp_path / "run", engine=scope["Telling"]())
    assert done.data["engine"] == "telling"
    assert f"trains softmax in {tmp_path / 'run'}" in capsys.readouterr().out


def test_learns_and_says_how_well(sample_build: Path, tmp_path: Path) -> None:
    done = run.train(config(sample_build, "rounds=8"), tmp_path / "run")
    logged = lines(tmp_path / "run")
    assert [line["round"] for line in logged] == list(range(1, 9))
    assert logged[-1]["loss"] < logged[0]["loss"] / 2
    assert done.trained
    assert done.data["figures"] == logged[-1]["figures"]
    figures = done.data["figures"]
    assert figures["test/accuracy/pooled"] > logged[0]["figures"]["test/accuracy/pooled"]
    assert set(figures) == {f"test/accuracy/{s}" for s in ("pooled", "mean", "weighted", "worst_decile", "std")}
    assert math.isclose(figures["test/accuracy/weighted"], figures["test/accuracy/pooled"])
    assert figures["test/accuracy/worst_decile"] <= figures["test/accuracy/mean"]
    per_client = done.data["clients"]["test"]["accuracy"]
    assert list(per_client) == [f"client-{k:04d}" for k in range(10)]


def test_defect_5_the_last_round_is_evaluated_and_saved(sample_build: Path, tmp_path: Path) -> None:
    """Whatever the intervals, the model that is reported is that of the last round, not of the best."""
    run.train(config(sample_build, "rounds=5"), tmp_path / "each")
    run.train(config(sample_build, "rounds=5", "eval_every=3", "checkpoint_every=4"), tmp_path / "some")
    logged = lines(tmp_path / "some")
    assert ["figures" in line for line in logged] == [False, False, True, False, True]
    each, some = final(tmp_path / "each"), final(tmp_path / "some")
    assert each[0]["figures"] == some[0]["figures"] == logged[-1]["figures"]
    assert each[2] == some[2]
    state, facts = load_state(tmp_path / "some/checkpoint/state.safetensors", torch.device("cpu"))
    assert facts["round"] == 5
    assert state["weight"].shape == (federated_softmax.FEATURES, 21)


def test_defect_7_a_client_is_left_out_for_its_rows_not_for_its_number(sample_build: Path, tmp_path: Path) -> None:
    """Every client with training rows trains every round; nobody is dropped by a literal index."""
    run.train(config(sample_build, "rounds=3"), tmp_path / "run")
    assert Softmax.trained == [tuple(range(10))] * 3


@pytest.mark.parametrize("store", ["memory", "disk"])
def test_defect_9_what_is_personal_goes_on_from_round_to_round(
    sample_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    """A client is given what it had when it last trained, however long ago, and its start before that."""
    left: dict[int, torch.Tensor] = {}
    seen: list[bool] = []
    train = Softmax.train

    def watched(self: Softmax, shared: Any, personal: Any, clients: list[int], round_: int) -> Any:
        for client, state in zip(clients, personal, strict=True):
            seen.append(client in left)
            assert torch.equal(state["bias"], left.get(client, torch.zeros(21)))
        for update in train(self, shared, personal, clients, round_):
            left[update.client] = update.personal["bias"].clone()
            yield update

    monkeypatch.setattr(Softmax, "train", watched)
    sets = ("sampling=uniform", "clients_per_round=4", "rounds=8", f"store={store}", "checkpoint_every=3")
    run.train(config(sample_build, *sets), tmp_path / "run")
    assert 0 < sum(seen) < len(seen) == 32
    assert all(value.abs().sum() > 0 for value in left.values())


def test_cohorts_and_stores_do_not_change_the_result(sample_build: Path, tmp_path: Path) -> None:
    run.train(config(sample_build, "cohort=32"), tmp_path / "a")
    Softmax.trained.clear()
    run.train(config(sample_build, "cohort=3", "store=disk", "checkpoint_every=3"), tmp_path / "b")
    assert Softmax.trained[:4] == [(0, 1, 2), (3, 4, 5), (6, 7, 8), (9,)]
    assert final(tmp_path / "a") == final(tmp_path / "b")


def test_global_random_state_is_neither_used_nor_changed(sample_build: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    run.train(config(sample_build, "sampling=size", "clients_per_round=4", "dropout=0.2"), tmp_path / "a")
    before = torch.get_rng_state()
    torch.manual_seed(2)
    run.train(config(sample_build, "sampling=size", "clients_per_round=4", "dropout=0.2"), tmp_path / "b")
    assert final(tmp_path / "a") == final(tmp_path / "b")
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), before)


def test_seed_zero_is_a_seed(sample_build: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        run.train(config(sample_build, f"seed={seed}"), tmp_path / str(seed))
        run.train(config(sample_build, f"seed={seed}"), tmp_path / f"{seed}-again")
        assert final(tmp_path / str(seed)) == final(tmp_path / f"{seed}-again")
    assert final(tmp_path / "0")[1] != final(tmp_path / "1")[1]


def test_no_rounds_judges_the_start(sample_build: Path, tmp_path: Path) -> None:
    done = run.train(config(sample_build, "rounds=0"), tmp_path / "run")
    assert done.data["figures"]["test/accuracy/pooled"] is not None
    assert lines(tmp_path / "run") == []
    assert done.data["counters"]["bytes"] == 0


# who is asked


ROWS = (100, 0, 50, 10, 40, 0, 200)


def asked(seed: int, sampling: str, count: int, rounds: int) -> list[list[int]]:
    wanted = RunConfig("m", "x", "s", seed=seed, sampling=sampling, clients_per_round=count)  # type: ignore[arg-type]
    return [participation.asked(wanted, ROWS, round_) for round_ in range(1, rounds + 1)]


def test_sampling_all_asks_everyone_with_rows() -> None:
    assert participation.asked(RunConfig("m", "x", "s"), ROWS, 1) == [0, 2, 3, 4, 6]
    assert participation.asked(RunConfig("m", "x", "s", sampling="uniform", clients_per_round=50), ROWS, 1) == [
        0,
        2,
        3,
        4,
        6,
    ]


@pytest.mark.parametrize("sampling", ["uniform", "size"])
def test_samples_have_no_client_twice_and_differ_by_round_and_seed(sampling: str) -> None:
    draws = asked(0, sampling, 3, 50)
    assert all(len(set(d)) == 3 and d == sorted(d) and not {1, 5} & set(d) for d in draws)
    assert len({tuple(d) for d in draws}) >= 3  # by size, two of the three are in every round
    assert draws == asked(0, sampling, 3, 50)
    assert draws != asked(1, sampling, 3, 50)


def test_sampling_probabilities() -> None:
    """One of five: uniform 1/5 each; size rows / 400. 4,000 rounds: a standard error of at most 0.008."""
    for sampling, expected in (("uniform", dict.fromkeys((0, 2, 3, 4, 6), 0.2)), ("size", dict(enumerate(ROWS)))):
        total = sum(expected.values())
        picks = [d[0] for d in asked(3, sampling, 1, 4000)]
        for client, weight in expected.items():
            assert abs(picks.count(client) / 4000 - weight / total) < 0.03, (sampling, client)


def test_size_sampling_has_each_client_in_proportion_to_its_rows() -> None:
    """Three of 400 rows: 200 and then 100 are more than a place is worth; one place is left for the other 100 rows."""
    draws = asked(1, "size", 3, 4000)
    inside = {client: sum(client in d for d in draws) / 4000 for client in range(7)}
    for client, chance in {6: 1, 0: 1, 2: 0.5, 3: 0.1, 4: 0.4, 1: 0, 5: 0}.items():
        assert abs(inside[client] - chance) < 0.03, client


SKEWED = (910, 10, 20, 30, 5, 25)  # one client has 91% of the rows


@pytest.mark.parametrize("rows", [ROWS, SKEWED], ids=["even", "skewed"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_sampled_by_size_clients_count_by_their_rows_over_the_rounds(rows: tuple[int, ...], count: int) -> None:
    shares = weight_over_rounds(rows, count, sampling="size")
    for client, n in enumerate(rows):
        assert abs(shares[client] - n / sum(rows)) < 0.02, client


def test_sampled_uniformly_clients_count_by_their_rows_in_each_round() -> None:
    wanted = RunConfig("m", "x", "s", sampling="uniform", clients_per_round=2)
    assert participation.weights(wanted, ROWS) is None
    assert participation.weights(RunConfig("m", "x", "s"), ROWS) is None


def test_size_sampling_with_row_weights_counts_size_twice_and_is_asked_for_by_name() -> None:
    assert RunConfig("m", "x", "s").weighting == "unbiased"
    rows = (910, *[9] * 10)
    even, twice = (weight_over_rounds(rows, 1, sampling="size", weighting=w)[0] for w in ("unbiased", "rows"))
    assert abs(even - 0.91) < 0.02
    assert abs(twice - 0.91) < 0.02  # one client a round: its weight is no matter
    even, twice = (weight_over_rounds(rows, 3, sampling="size", weighting=w)[0] for w in ("unbiased", "rows"))
    assert abs(even - 0.91) < 0.02
    assert twice > 0.97


def weight_over_rounds(rows: tuple[int, ...], count: int, **sets: str) -> list[float]:
    """The mean share of each client in the server's mean, over 3,000 rounds."""
    wanted = RunConfig("m", "x", "s", clients_per_round=count, **sets)  # type: ignore[arg-type]
    fixed = participation.weights(wanted, rows)
    shares = [0.0] * len(rows)
    for round_ in range(1, 3001):
        drawn = participation.asked(wanted, rows, round_)
        weights = [rows[client] if fixed is None else fixed[client] for client in drawn]
        for client, weight in zip(drawn, weights, strict=True):
            shares[client] += weight / sum(weights) / 3000
    return shares


def test_weights_reach_the_mean(sample_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    added: list[float] = []
    add = WeightedMean.add
    monkeypatch.setattr(WeightedMean, "add", lambda self, state, n: (added.append(n), add(self, state, n)))
    for weighting in ("unbiased", "equal", "rows"):
        sets = ("sampling=size", "clients_per_round=2", "rounds=2", f"weighting={weighting}")
        run.train(config(sample_build, *sets), tmp_path / weighting)
    assert added[:8] == [1.0] * 8  # nobody has half of all rows
    assert min(added[8:]) > 1
    assert len(set(added[8:])) > 1


def test_dropout_takes_its_share_and_nobody_may_answer(sample_build: Path, tmp_path: Path) -> None:
    wanted = RunConfig("m", "x", "s", dropout=0.25)
    stayed = [len(participation.answering(wanted, range(10), 10, round_)) for round_ in range(1000)]
    assert abs(sum(stayed) / 10000 - 0.75) < 0.03
    done = run.train(config(sample_build, "dropout=0.95", "rounds=6"), tmp_path / "run")
    logged = lines(tmp_path / "run")
    assert any(line["clients"] == 0 and line["loss"] is None for line in logged)
    assert sum(line["dropped"] for line in logged) == done.data["counters"]["dropped"] > 0
    assert all(line["clients"] + line["dropped"] == 10 for line in logged)


# what is averaged


def test_defect_4_counters_are_not_averaged(sample_build: Path, tmp_path: Path) -> None:
    run.train(config(sample_build), tmp_path / "run")
    state, _ = load_state(tmp_path / "run/checkpoint/state.safetensors", torch.device("cpu"))
    assert state["seen"].dtype == torch.int64
    assert state["seen"].item() == 7


def test_weighted_mean_against_float64() -> None:
    draw = torch.Generator().manual_seed(0)
    states = [{"a": torch.randn(5, 3, generator=draw), "b": torch.randn(2, generator=draw).half()} for _ in range(40)]
    rows = torch.randint(1, 900, (40,), generator=draw).tolist()
    mean = WeightedMean()
    for state, n in zip(states, rows, strict=True):
        mean.add(state, n)
    got = mean.over(states[0])
    weights = torch.tensor(rows, dtype=torch.float64) / sum(rows)
    for name in "ab":
        stacked = torch.stack([state[name].double() for state in states])
        expected = (stacked * weights.view(-1, *[1] * (stacked.dim() - 1))).sum(0)
        assert got[name].dtype == states[0][name].dtype
        assert torch.allclose(got[name].double(), expected, atol=1e-7 if name == "a" else 1e-3)
    assert mean.weight == sum(rows)


def test_the_mean_of_equal_states_is_that_state() -> None:
    mean, state = WeightedMean(), {"a": torch.tensor([0.1, 1e30, -3.3])}
    for n in (3, 7, 11):
        mean.add(state, n)
    assert torch.equal(mean.over(state)["a"], state["a"])


# what is refused


def test_the_mean_of_no_updates_is_refused() -> None:
    with pytest.raises(PluginError, match="the mean of no updates: give at least one"):
        weighted_mean({"a": torch.zeros(2)}, [])


def test_updates_that_are_not_finite_are_refused_by_name(sample_build: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    wanted = config(sample_build, "poison=2", "poison_round=2", "rounds=3")
    done = run.train(wanted, tmp_path / "run", listener=Listener(note=notes.append))
    assert notes == ["round 2: left out client-0002, whose update has NaN or infinity"]
    logged = lines(tmp_path / "run")
    assert [line["refused"] for line in logged] == [[], ["client-0002"], []]
    assert [line["clients"] for line in logged] == [10, 9, 10]
    assert done.data["counters"]["refused"] == 1
    assert all(math.isfinite(line["loss"]) for line in logged)


def test_a_refused_client_is_as_one_that_was_not_there(sample_build: Path, tmp_path: Path) -> None:
    """In the round it is refused, neither the mean nor its personal state knows of it."""
    run.train(config(sample_build, "poison=2", "poison_round=1", "rounds=1"), tmp_path / "run")
    assert not list((tmp_path / "run/checkpoint/personal").glob("client-00002-*"))
    bound = Softmax(_context(sample_build), Softmax.Settings())
    mean, start = WeightedMean(), bound.shared()
    for client in (0, 1, *range(3, 10)):
        (update,) = bound.train(start, [bound.personal(client)], [client], 1)
        mean.add(update.shared, update.rows)
    state, _ = load_state(tmp_path / "run/checkpoint/state.safetensors", torch.device("cpu"))
    assert torch.equal(state["weight"], mean.over(start)["weight"])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_finite_looks_at_all_that_a_client_made(bad: float) -> None:
    good = {"a": torch.zeros(2), "n": torch.tensor(3)}
    spoilt = {"a": torch.tensor([0.0, bad])}
    assert rounds.finite(Update(0, 1, good, good, 0.5))
    assert not rounds.finite(Update(0, 1, spoilt, good, 0.5))
    assert not rounds.finite(Update(0, 1, good, spoilt, 0.5))
    assert not rounds.finite(Update(0, 1, good, good, bad))


# what is measured


def test_what_is_sent_is_counted_from_the_tensors(sample_build: Path, tmp_path: Path) -> None:
    done = run.train(config(sample_build, "rounds=2", "sampling=uniform", "clients_per_round=4"), tmp_path / "run")
    floats = federated_softmax.FEATURES * 21
    assert done.data["counters"] == {
        "updates": 8,
        "refused": 0,
        "dropped": 0,
        "floats": 8 * floats,
        "bytes": 8 * (4 * floats + 8),  # and the counter, an int64
        "client_floats": floats,
        "client_bytes": 4 * floats + 8,
    }
    assert [line["floats_sent"] for line in lines(tmp_path / "run")] == [4 * floats, 8 * floats]


def test_statistics_over_clients() -> None:
    values = [90.0, 10.0, math.nan, 50.0, *[70.0] * 8]
    rows = [10, 30, 0, 10, *[5] * 8]
    got = rounds.summarise(Evaluation({"pooled": 40.0, "nothing": math.nan}, {"acc": values}, rows))
    assert got["pooled"] == 40.0
    assert got["nothing"] is None
    assert got["acc/mean"] == pytest.approx((90 + 10 + 50 + 560) / 11)
    assert got["acc/weighted"] == pytest.approx((900 + 300 + 500 + 2800) / 90)
    assert got["acc/worst_decile"] == pytest.approx(30.0)  # two of eleven
    assert got["acc/std"] == pytest.approx(np.nanstd(values))
    nobody = rounds.summarise(Evaluation({}, {"acc": [math.nan]}, [0]))
    assert set(nobody.values()) == {None}


# clients without rows, and data nothing can be learnt from


def test_more_clients_a_round_than_there_are_is_said_and_recorded_as_asked(sample_build: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    wanted = config(sample_build, "rounds=1", "clients_per_round=50")
    done = run.train(wanted, tmp_path / "run", listener=Listener(note=notes.append))
    assert notes == ["fed-ucmerced: all 10 clients train every round (requested: 50)"]
    assert (done.facts["config"]["clients_per_round"], done.data["counters"]["updates"]) == (50, 10)


def test_empty_clients_are_counted_and_said(tmp_path: Path) -> None:
    """More clients than rows can fill: some have no training rows, some no test rows."""
    built = sampled(tmp_path / "fed", "clients=60", "alpha=0.05", "min_size=0").path
    notes: list[str] = []
    done = run.train(config(built, "rounds=2"), tmp_path / "run", listener=Listener(note=notes.append))
    empty = done.data["clients_without_training_rows"]
    assert empty
    assert notes[0] == f"fed-ucmerced: {len(empty)} of 60 clients have no training rows and are never sampled"
    assert "have no test rows and enter no mean over clients" in notes[1]
    numbers = {int(name[-4:]) for name in empty}
    assert not numbers & {client for cohort in Softmax.trained for client in cohort}
    accuracy, rows = done.data["clients"]["test"]["accuracy"], done.data["clients"]["test"]["rows"]
    assert {c for c, v in accuracy.items() if v is None} == {c for c, n in rows.items() if n == 0}
    held = [v for v in accuracy.values() if v is not None]
    assert done.data["figures"]["test/accuracy/mean"] == pytest.approx(sum(held) / len(held))


def test_one_class_is_refused(sample_build: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Subset, "classes", ("forest",))
    with pytest.raises(UsageError, match="its label space has 1 class; there is nothing to tell apart"):
        run.train(config(sample_build), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_held_out_domains(tmp_path: Path) -> None:
    """Rows of the domain count for nobody; without them a client may have none, and a run may have nobody."""
    built = sampled(tmp_path / "fed", "clients=6", subset="fed-domains").path
    wanted = changed(RunConfig("softmax", str(built), "fed-domains"), ["device=cpu", "held_out=no"], Softmax.Settings)
    with pytest.raises(UsageError, match="held_out=no: fed-domains has no such domain; known: "):
        run.train(wanted, tmp_path / "run")
    context = _context(built, "fed-domains", "sample-ucmerced")
    table = context.subset.read("train", ["client_id", "domain"]).to_pylist()
    for client, rows in zip(context.clients, context.rows, strict=True):
        assert rows == sum(r["client_id"] == client and r["domain"] != "sample-ucmerced" for r in table)
    assert 0 in context.rows
    ucmerced = sampled(tmp_path / "one", "clients=6").path
    with pytest.raises(UsageError, match="no client has training rows outside domain sample-ucmerced"):
        _context(ucmerced, "fed-ucmerced", "sample-ucmerced")


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (('splits=["tset"]',), "no held-out split 'tset'; did you mean 'test'"),
        (('splits=["train"]',), "no held-out split 'train'"),
        (("device=cuda",), "device=cuda: this machine has none"),
        (("device=cpu", "precision=bfloat16"), "precision=bfloat16: is for GPUs"),
    ],
)
def test_choices_that_are_not_there(
    sample_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sets: tuple[str, ...], words: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=words):
        run.train(config(sample_build, *sets), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_several_subsets_are_checked_before_the_first_begins(sample_build: Path, tmp_path: Path) -> None:
    good, bad = config(sample_build), config(sample_build, 'splits=["novel"]')
    with pytest.raises(UsageError, match="novel"):
        run.train_all([good, bad], tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_folders_of_several_subsets_are_checked_before_the_first_begins(sample_build: Path, tmp_path: Path) -> None:
    (tmp_path / "runs/other").mkdir(parents=True)
    (tmp_path / "runs/other/thesis.tex").write_text("x")
    good, bad = config(sample_build), config(sample_build)
    places = iter([None, tmp_path / "runs/other"])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setattr(run, "_default_folder", lambda *_: next(places) or Path("runs/first"))
        with pytest.raises(OutputError, match="holds no run"):
            run.train_all([good, bad])
    assert not (tmp_path / "runs/first").exists()


def test_a_run_whose_every_update_is_refused_says_so(sample_build: Path, tmp_path: Path) -> None:
    done = run.train(config(sample_build, "lr=1e38", "rounds=1"), tmp_path / "run")
    assert done.data["counters"]["refused"] == done.data["counters"]["updates"] == 10
    assert not learned([done])
    assert learned([run.train(config(sample_build, "rounds=1"), tmp_path / "good")])


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you ...")])
def test_too_little_memory_is_one_line(
    sample_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def train(*_: object) -> None:
        raise error

    monkeypatch.setattr(Softmax, "train", train)
    with pytest.raises(UsageError, match="softmax: cpu does not have enough memory for cohort=32; set less"):
        run.train(config(sample_build), tmp_path / "run")
    error.args = ("something else",)
    if isinstance(error, RuntimeError):
        with pytest.raises(RuntimeError, match="something else"):
            run.train(config(sample_build), tmp_path / "run")


def test_deterministic_mode_is_left_again(sample_build: Path, tmp_path: Path) -> None:
    run.train(config(sample_build, "rounds=1", "deterministic=true"), tmp_path / "run")
    assert not torch.are_deterministic_algorithms_enabled()


# personal states


@pytest.mark.parametrize("in_memory", [True, False])
def test_personal_states_outlive_the_store(tmp_path: Path, in_memory: bool) -> None:
    def initial(client: int) -> dict[str, torch.Tensor]:
        return {"z": torch.full((2,), -1.0), "a": torch.tensor(client)}

    cpu = torch.device("cpu")
    store = PersonalStore(tmp_path / "p", initial, cpu, in_memory=in_memory)
    stacked = torch.arange(6.0).view(3, 2)
    for client in (0, 2):
        store.put(client, {"z": stacked[client], "a": torch.tensor(9)}, 1)
    stacked.zero_()  # the cohort's memory is its own
    assert store.get(2)["z"].tolist() == [4.0, 5.0]
    assert store.get(1)["a"].item() == 1
    first = store.flush()
    store.prune()
    assert first == {0: 1, 2: 1}
    store.put(2, {"z": torch.ones(2), "a": torch.tensor(9)}, 2)  # newer than the checkpoint: void
    again = PersonalStore(tmp_path / "p", initial, cpu, in_memory=not in_memory, rounds=first)
    assert again.get(2)["z"].tolist() == [4.0, 5.0]
    assert list(again.get(2)) == ["z", "a"]
    assert again.get(1)["z"].tolist() == [-1.0, -1.0]
    assert len(list((tmp_path / "p").iterdir())) == 2


def test_a_lost_personal_state_is_one_line(tmp_path: Path) -> None:
    store = PersonalStore(tmp_path, lambda _: {}, torch.device("cpu"), in_memory=True, rounds={3: 7})
    with pytest.raises(OutputError, match="client-00003-round-00007.safetensors: is missing or damaged"):
        store.get(3)


def _context(manifest: Path, subset: str = "fed-ucmerced", held_out: str | None = None) -> Any:
    from fedtrain.methods.base import Context

    sets = ["device=cpu"] + ([f"held_out={held_out}"] if held_out else [])
    wanted = changed(RunConfig("softmax", str(manifest), subset), sets, Softmax.Settings)
    _, opened, rows = resolve.prepared(wanted)
    return Context(opened, opened.clients, rows, 0, torch.device("cpu"))


def test_runs_do_not_go_into_the_dataset(sample_build: Path) -> None:
    with pytest.raises(OutputError, match="is inside the dataset"):
        run.train(config(sample_build), sample_build / "run")
    assert not (sample_build / "run").exists()
