"""Runs killed at any moment go on as if nothing had happened; what is damaged or of another run is one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PYTHONPATH, ROOT, contents
from federated_softmax import Softmax
from softmax_runs import config, final, lines

from fedrsic_data.errors import ManifestError, OutputError, UsageError
from fedtrain import methods, run
from fedtrain.progress import Listener
from fedtrain.runs import checkpoint, resume
from fedtrain.runs.checkpoint import Journal, Written
from fedtrain.runs.state import load_state, save_state
from fedtrain.runs.verify import check_run

CPU = torch.device("cpu")
LINUX = sys.platform == "linux"

# A process that trains the same run again and again, each time in a fork that is killed just before its n-th change to
# the file system, or after a while, until one gets through.
KILLER = """
import itertools, json, os, random, shutil, signal, sys, time, traceback
from pathlib import Path

import torch
torch.set_num_threads(1)
from conftest import contents
from federated_softmax import Softmax, labels
from softmax_runs import config, final
from fedtrain import methods, run

STATE = "checkpoint/state.safetensors"
methods.METHODS["softmax"] = Softmax
top, built, scenario = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
SETS = ["rounds=3", "sampling=uniform", "clients_per_round=2", "dropout=0.2", "poison=3", "poison_round=2"]
SETS += ["seed=114"]  # clients 2, 2 and 3, 2 and 3: each round goes on from personal states of the one before
SETS += {"disk": ["store=disk"], "seldom": ["checkpoint_every=2", "store=disk"]}.get(scenario, [])
OVER = scenario == "overwrite"
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def changes(event, args):
    if event == "open":
        return bool((args[2] or 0) & WRITES) and not str(args[0]).startswith("/dev/")
    return event in CHANGES


def attempt(out, kill_at=None, kill_after=None):
    child = os.fork()
    if child == 0:
        count = itertools.count(1)

        def die(event, args):
            if changes(event, args) and next(count) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        if kill_at is not None:
            sys.addaudithook(die)
        code = 1
        try:
            run.train(config(built, *SETS), out, overwrite=OVER)
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    return 9 if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def begun_anew(out):  # the first round of the new run is done: what is left of the old one may go
    return any(p.is_file() for p in (out / ".next" / STATE, out / STATE)) and not (out / ".new").exists()


for client in range(10):  # here, so that the forks need not
    for split in ("train", "test"):
        labels(built, "fed-ucmerced", split, f"client-{client:04d}")
run.train(config(built, "rounds=1"), top / "other")  # imports, here too
begun = time.monotonic()
assert attempt(top / "reference") == 0
seconds = time.monotonic() - begun
reference = final(top / "reference")
assert sum(json.loads(line)["clients"] for line in reference[1].splitlines()) == 4  # one was refused
if OVER:
    run.train(config(built, "rounds=1", "seed=9"), top / "old")
    old = contents(top / "old")
problems, kills = [], 0
chance = random.Random(5)
for n in itertools.count(1):
    out = top / f"run-{n}"
    if scenario == "moments":  # killed again and again on the way
        if n > 6:
            break
        for _ in range(3):
            kills += attempt(out, kill_after=chance.uniform(0, seconds)) == 9
        code = 9
    else:
        if OVER:
            shutil.copytree(top / "old", out)
        code = attempt(out, kill_at=n)
    if code == 9:
        kills += 1
        if OVER and not any(old.items() <= contents(at).items() for at in (out, out / ".old")) and not begun_anew(out):
            problems.append([n, "neither the old run nor a round of the new one is there"])
        if attempt(out) != 0:
            problems.append([n, "cannot be resumed"])
            continue
    elif code:
        problems.append([n, "failed"])
    if final(out) != reference:
        problems.append([n, "differs"])
    if contents(out).keys() != contents(top / "reference").keys():
        problems.append([n, "holds other files"])
    if code == 0:
        break
    shutil.rmtree(out)
print(json.dumps({"kills": kills, "problems": problems}))
"""


@pytest.fixture(autouse=True)
def _softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setitem(methods.METHODS, "softmax", Softmax)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["each", "disk", "seldom", "moments", "overwrite"])
def test_defect_16_a_run_killed_at_any_moment_is_the_same_in_the_end(
    sample_build: Path, tmp_path: Path, scenario: str
) -> None:
    """Every change to the file system is a moment to be killed at: metrics, tensors and counters stay the same."""
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path), str(sample_build), scenario],
        capture_output=True,
        text=True,
        cwd=ROOT / "tests",
        env={"PYTHONPATH": PYTHONPATH, "PATH": "", "OMP_NUM_THREADS": "1"},
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["problems"] == []
    assert told["kills"] >= 6


def test_going_on_trains_only_what_is_left(sample_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, evaluate, count = config(sample_build, "rounds=4"), Softmax.evaluate, []

    def interrupted(*arguments: Any) -> Any:
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        return evaluate(*arguments)

    monkeypatch.setattr(Softmax, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.train(wanted, tmp_path / "run")
    Softmax.trained.clear()
    run.train(wanted, tmp_path / "run")
    assert len(Softmax.trained) == 2
    monkeypatch.undo()
    monkeypatch.setitem(methods.METHODS, "softmax", Softmax)
    run.train(wanted, tmp_path / "whole")
    assert final(tmp_path / "run") == final(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fedrsclip", "local"])
def test_real_methods_go_on_exactly(
    name: str, sample_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    sets = ["device=cpu", "rounds=3", "length=2", "epochs=1", "batch=16", "store=disk"]
    (wanted,) = run.configs(name, sample_build, [], sets)

    def interrupt(line: Mapping[str, Any], rounds: int) -> None:
        if line["round"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.train(wanted, tmp_path / "run", cache=tmp_path / "cache", listener=Listener(round=interrupt))
    run.train(wanted, tmp_path / "run", cache=tmp_path / "cache")
    run.train(wanted, tmp_path / "whole", cache=tmp_path / "cache")
    assert final(tmp_path / "run") == final(tmp_path / "whole")
    assert len(list((tmp_path / "run/checkpoint/personal").iterdir())) == 10


def test_a_finished_run_is_only_read(sample_build: Path, tmp_path: Path) -> None:
    first = run.train(config(sample_build), tmp_path / "run")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*") if p.name != ".lock"}
    Softmax.trained.clear()
    again = run.train(config(sample_build, "cohort=2", "store=disk"), tmp_path / "run")
    assert not again.trained
    assert not Softmax.trained
    assert again.data == first.data
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*") if p.name != ".lock"} == before


def test_more_rounds_go_on_and_equal_an_uninterrupted_run_to_the_bit(sample_build: Path, tmp_path: Path) -> None:
    """Each ends where the next one would not have been evaluated; every file but the clock is the same."""
    said: list[str] = []
    sets = ("eval_every=3", "sampling=uniform", "clients_per_round=2", "dropout=0.2")
    for rounds in (2, 4, 7):
        done = run.train(
            config(sample_build, *sets, f"rounds={rounds}"), tmp_path / "run", listener=Listener(say=said.append)
        )
        assert done.trained
        assert done.data["rounds"] == rounds
        assert check_run(tmp_path / "run")[1] == []
    assert said == [
        "training softmax on fed-ucmerced",
        "training softmax on fed-ucmerced: goes on after round 2 of 4",
        "training softmax on fed-ucmerced: goes on after round 4 of 7",
    ]
    run.train(config(sample_build, *sets, "rounds=7"), tmp_path / "whole")
    assert final(tmp_path / "run") == final(tmp_path / "whole")
    ours, theirs = (contents(tmp_path / name) for name in ("run", "whole"))
    for held in (ours, theirs):
        del held["clock.json"], held["result.json"]  # times, and digests of what is compared here
    assert ours == theirs


def test_fewer_rounds_than_are_done_are_refused(sample_build: Path, tmp_path: Path) -> None:
    run.train(config(sample_build, "rounds=3"), tmp_path / "run")
    before = contents(tmp_path / "run")
    with pytest.raises(OutputError, match=r"run: has trained 3 rounds of this run, more than rounds=2; choose another"):
        run.train(config(sample_build, "rounds=2"), tmp_path / "run")
    with pytest.raises(OutputError, match="holds a run with lr=0.5, not 0.1"):  # not that its rounds differ
        run.train(config(sample_build, "rounds=5", "lr=0.1"), tmp_path / "run")
    assert contents(tmp_path / "run") == before
    (tmp_path / "run/result.json").unlink()  # killed before the end of a longer run, it may end where it is
    whole = run.train(config(sample_build, "rounds=3"), tmp_path / "whole")
    assert run.train(config(sample_build, "rounds=3"), tmp_path / "run").data["figures"] == whole.data["figures"]


@pytest.mark.parametrize("kill", ["config", "checkpoint", "journal"])
def test_a_run_killed_while_it_gets_more_rounds_goes_on(
    sample_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill: str
) -> None:
    """Between any two of the files that change: its config, the checkpoint, the line of its last round."""
    run.train(config(sample_build, "rounds=2", "eval_every=3"), tmp_path / "run")
    with monkeypatch.context() as patch:
        where = {"config": (resume, "write"), "checkpoint": (checkpoint, "save"), "journal": (checkpoint, "write")}[
            kill
        ]
        kept = getattr(*where)

        def dies(path: Path, *rest: object) -> None:
            if kill != "journal" or path.name == "metrics.jsonl":
                raise KeyboardInterrupt
            kept(path, *rest)

        patch.setattr(*where, dies)
        with pytest.raises(KeyboardInterrupt):
            run.train(config(sample_build, "rounds=4", "eval_every=3"), tmp_path / "run")
    run.train(config(sample_build, "rounds=4", "eval_every=3"), tmp_path / "run")
    run.train(config(sample_build, "rounds=4", "eval_every=3"), tmp_path / "whole")
    assert final(tmp_path / "run") == final(tmp_path / "whole")


def test_another_run_is_refused_and_overwritten(sample_build: Path, tmp_path: Path) -> None:
    run.train(config(sample_build), tmp_path / "run")
    other = config(sample_build, "seed=3")
    with pytest.raises(OutputError, match="holds a run with seed=0, not 3; choose another --out, or --overwrite"):
        run.train(other, tmp_path / "run")
    run.train(other, tmp_path / "run", overwrite=True)
    run.train(other, tmp_path / "fresh")
    assert final(tmp_path / "run") == final(tmp_path / "fresh")
    assert [line["round"] for line in lines(tmp_path / "run")] == [1, 2, 3, 4]


def test_a_run_that_never_began_gives_way(sample_build: Path, tmp_path: Path) -> None:
    """What failed before its first checkpoint does not stand in the way of what mends it."""
    with pytest.raises(ZeroDivisionError):
        run.train(config(sample_build, "poison=0", "poison_round=1"), tmp_path / "run", listener=_Failing())
    assert (tmp_path / "run/config.json").is_file()
    with pytest.raises(UsageError, match="no held-out split"):
        run.train(config(sample_build, 'splits=["novel"]'), tmp_path / "run")
    done = run.train(config(sample_build, "seed=5"), tmp_path / "run")
    assert done.facts["config"]["seed"] == 5
    assert json.loads((tmp_path / "run/config.json").read_text())["config"]["seed"] == 5


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_cannot_begin_changes_nothing(
    sample_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    """Also not with ``overwrite``, whose run is only gone once the new one is ready to train."""

    def cannot(*_: object) -> None:
        raise UsageError("no such weights")

    run.train(config(sample_build), tmp_path / "run")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    monkeypatch.setattr(Softmax, "__init__", cannot)
    with pytest.raises(OutputError if not overwrite else UsageError):
        run.train(config(sample_build, "lr=0.1"), tmp_path / "run", overwrite=overwrite)
    with pytest.raises(UsageError, match="no such weights"):
        run.train(config(sample_build, "lr=0.1"), tmp_path / "other", overwrite=overwrite)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert not (tmp_path / "other").exists()


def test_weights_in_a_file_are_known_by_what_is_in_it(sample_build: Path, tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"one")
    wanted = config(sample_build, f"clip=ViT-B-16:{tmp_path}/weights.safetensors")
    run.train(wanted, tmp_path / "run")
    assert not run.train(wanted, tmp_path / "run").trained
    (tmp_path / "weights.safetensors").write_bytes(b"two")
    with pytest.raises(OutputError, match="holds a run with other weights in the file of clip"):
        run.train(wanted, tmp_path / "run")


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "checkpoint", "checkpoint/personal", ".lock"])
def test_links_are_refused_and_what_they_lead_to_stays(sample_build: Path, tmp_path: Path, name: str) -> None:
    run.train(config(sample_build), tmp_path / "run")
    path, away = tmp_path / "run" / name, tmp_path / "away"
    path.touch() if name == ".lock" else None
    path.rename(away)
    path.symlink_to(away)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="is a symbolic link, and its target would be changed"):
            run.train(config(sample_build, "seed=1"), tmp_path / "run", overwrite=overwrite)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("change", ["values", "round", "client", "run"])
def test_states_that_are_not_what_they_should_be(sample_build: Path, tmp_path: Path, change: str) -> None:
    """A digest is in every state, and so is whose it is: a well-formed file of another is not taken."""
    run.train(config(sample_build), tmp_path / "run")
    (tmp_path / "run/result.json").unlink()
    personal = tmp_path / "run/checkpoint/personal"
    path = personal / "client-00003-round-00004.safetensors"
    state, facts = load_state(path, torch.device("cpu"))
    if change == "values":
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    elif change == "client":
        path.write_bytes((personal / "client-00004-round-00004.safetensors").read_bytes())
    else:
        save_state(path, state, facts | ({"round": 3} if change == "round" else {"key": "other"}))
    with pytest.raises(OutputError, match=r"client-00003.*(its digest differs|another client, round or run)"):
        run.train(config(sample_build), tmp_path / "run")


def test_an_edited_manifest_or_config_is_noticed(sample_build: Path, tmp_path: Path) -> None:
    built = tmp_path / "fed"
    shutil.copytree(sample_build, built)
    run.train(config(built), tmp_path / "run")
    path = tmp_path / "run/config.json"
    path.write_text(path.read_text().replace('"lr": 0.5', '"lr": 0.1'))
    with pytest.raises(OutputError, match=r"holds a run with lr=0.1, not 0.5"):
        run.train(config(built), tmp_path / "run")
    manifest = built / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"alpha": 0.5', '"alpha": 0.6'))
    with pytest.raises(ManifestError, match=r"was edited, its digest differs; run: fedkit verify"):
        run.train(config(built), tmp_path / "new")
    assert not (tmp_path / "new").exists()


class _Failing(Listener):
    def __init__(self) -> None:
        super().__init__(note=lambda _: 1 / 0)


def test_a_checkpoint_of_another_run(sample_build: Path, tmp_path: Path) -> None:
    """Also where a config was edited by hand to look like it."""
    run.train(config(sample_build), tmp_path / "a")
    run.train(config(sample_build, "lr=0.1"), tmp_path / "b")
    for name in ("result.json", "checkpoint/state.safetensors"):
        (tmp_path / "b" / name).unlink()
    (tmp_path / "a/checkpoint/state.safetensors").rename(tmp_path / "b/checkpoint/state.safetensors")
    with pytest.raises(OutputError, match="state.safetensors: is a checkpoint of another config or dataset"):
        run.train(config(sample_build, "lr=0.1"), tmp_path / "b")


@pytest.mark.parametrize(
    "name", ["checkpoint/state.safetensors", "checkpoint/personal/client-00003-round-00004.safetensors"]
)
@pytest.mark.parametrize("keep", [0, 5, 0.5, -1])
def test_a_truncated_checkpoint(sample_build: Path, tmp_path: Path, name: str, keep: float) -> None:
    run.train(config(sample_build), tmp_path / "run")
    (tmp_path / "run/result.json").unlink()
    path = tmp_path / "run" / name
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(
        OutputError, match=r"is missing or damaged \(.*\); start the run anew with --overwrite"
    ) as caught:
        run.train(config(sample_build), tmp_path / "run")
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    run.train(config(sample_build), tmp_path / "run", overwrite=True)


def test_a_safetensors_file_that_is_no_checkpoint(sample_build: Path, tmp_path: Path) -> None:
    run.train(config(sample_build), tmp_path / "run")
    (tmp_path / "run/result.json").unlink()
    path = tmp_path / "run/checkpoint/state.safetensors"
    for facts, words in (({}, "is not a checkpoint"), ({"format": 99}, "was written by another version of fedkit")):
        save_state(path, {"a": torch.zeros(1)}, facts)
        with pytest.raises(OutputError, match=words):
            run.train(config(sample_build), tmp_path / "run")


def test_defect_16_the_journal_has_every_round_once(sample_build: Path, tmp_path: Path) -> None:
    """Lines newer than the checkpoint are cut off; a journal that lacks lines is not taken."""
    run.train(config(sample_build), tmp_path / "run")
    (tmp_path / "run/result.json").unlink()
    path = tmp_path / "run/metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"round": 5, "lo')
    run.train(config(sample_build), tmp_path / "run")
    assert path.read_bytes() == whole
    (tmp_path / "run/result.json").unlink()
    for spoilt in (whole[:-1], whole.replace(b'"round": 2', b'"round": 7'), b""):
        path.write_bytes(spoilt)
        with pytest.raises(OutputError, match="metrics.jsonl: was cut or changed; start the run anew"):
            run.train(config(sample_build), tmp_path / "run")
        assert path.read_bytes() == spoilt


def test_no_number_that_json_lacks(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "metrics.jsonl", Written())
    with pytest.raises(ValueError, match="not JSON compliant"):
        journal.append({"loss": float("nan")})
    journal.close()


def test_folders_that_are_no_runs(sample_build: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("x")
    for name, words in (("file", "is a file"), ("mine", "is not empty and holds no run")):
        for overwrite in (False, True):
            with pytest.raises(OutputError, match=words):
                run.train(config(sample_build), tmp_path / name, overwrite=overwrite)
    assert (tmp_path / "mine/thesis.tex").read_text() == "x"
    (tmp_path / "empty").mkdir()
    run.train(config(sample_build, "rounds=1"), tmp_path / "empty")


@pytest.mark.parametrize(
    "words",
    [
        *("{}", '{"fedkit": true}', '{"fedkit": "1"}', '{"fedkit": 99}', "[1]", '{"model_type": "clip"}'),
        *('{"fedkit": 1}', '{"fedkit": 1, "name": "mine", "subsets": {}}'),  # a recipe is fedkit's too, and no run
    ],
)
def test_a_folder_with_a_config_of_somebody_else_is_no_run(sample_build: Path, tmp_path: Path, words: str) -> None:
    """Many programs have a config.json; fedkit's says in its format field that fedkit wrote it."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/config.json").write_text(words)
    (tmp_path / "mine/thesis.tex").write_text("precious")
    before = contents(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="is not empty and holds no run .config.json"):
            run.train(config(sample_build), tmp_path / "mine", overwrite=overwrite)
        assert contents(tmp_path) == before
    (tmp_path / "mine/thesis.tex").unlink()
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="is not empty and holds no run .config.json"):
            run.train(config(sample_build), tmp_path / "mine", overwrite=overwrite)
    assert contents(tmp_path) == {"mine/config.json": words.encode()}


@pytest.mark.parametrize(
    "name",
    [
        "thesis.tex",
        "checkpoint/notes",
        "checkpoint/personal/client-00003-round-mine",
        "tensorboard/x",
        "config.json.tmp",
    ],
)
def test_a_file_of_a_person_in_a_run_stays(sample_build: Path, tmp_path: Path, name: str) -> None:
    """A run that goes on leaves it alone; one that would replace the run is refused."""
    run.train(config(sample_build), tmp_path / "run")
    mine = tmp_path / "run" / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("precious")
    before = contents(tmp_path)
    with pytest.raises(OutputError, match=f"{name}: was not written by fedkit and would be lost"):
        run.train(config(sample_build, "seed=1"), tmp_path / "run", overwrite=True)
    assert contents(tmp_path) == before
    (tmp_path / "run/result.json").unlink()
    run.train(config(sample_build), tmp_path / "run")
    assert contents(tmp_path).keys() == before.keys()
    assert mine.read_text() == "precious"


def test_a_run_that_is_overwritten_stays_until_a_round_of_the_new_one_is_done(
    sample_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.train(config(sample_build), tmp_path / "run")
    before, other, train = contents(tmp_path), config(sample_build, "seed=3"), Softmax.train

    def fails(*_: object) -> None:
        assert before.items() <= contents(tmp_path).items()
        raise RuntimeError("no luck")

    def fails_later(self: Softmax, shared: object, personal: object, members: object, round_: int) -> object:
        return fails() if round_ == 2 else train(self, shared, personal, members, round_)

    monkeypatch.setattr(Softmax, "train", fails)
    with pytest.raises(RuntimeError, match="no luck"):
        run.train(other, tmp_path / "run", overwrite=True)
    assert contents(tmp_path) == before
    before = {}
    monkeypatch.setattr(Softmax, "train", fails_later)
    with pytest.raises(RuntimeError, match="no luck"):
        run.train(other, tmp_path / "run", overwrite=True)
    assert json.loads((tmp_path / "run/config.json").read_text())["config"]["seed"] == 3
    assert not (tmp_path / "run/result.json").exists()
    monkeypatch.setattr(Softmax, "train", train)
    Softmax.trained.clear()
    run.train(other, tmp_path / "run")
    assert len(Softmax.trained) == 3  # rounds: the first was kept
    run.train(other, tmp_path / "fresh")
    assert final(tmp_path / "run") == final(tmp_path / "fresh")
    assert contents(tmp_path / "run").keys() == contents(tmp_path / "fresh").keys()


@pytest.mark.parametrize("rounds", [0, 1])
def test_a_run_that_is_overwritten_by_one_without_later_rounds(sample_build: Path, tmp_path: Path, rounds: int) -> None:
    run.train(config(sample_build), tmp_path / "run")
    other = config(sample_build, f"rounds={rounds}")
    run.train(other, tmp_path / "run", overwrite=True)
    run.train(other, tmp_path / "fresh")
    assert final(tmp_path / "run") == final(tmp_path / "fresh")
    assert contents(tmp_path / "run").keys() == contents(tmp_path / "fresh").keys()


def test_a_file_that_appears_while_a_run_is_overwritten_stays(sample_build: Path, tmp_path: Path) -> None:
    run.train(config(sample_build), tmp_path / "run")
    before = contents(tmp_path)

    def appears(line: Mapping[str, Any], _: int) -> None:
        (tmp_path / "run/checkpoint/thesis.tex").write_text("precious")

    with pytest.raises(OutputError, match="checkpoint/thesis.tex: was not written by fedkit and would be lost"):
        run.train(config(sample_build, "seed=1"), tmp_path / "run", overwrite=True, listener=Listener(round=appears))
    assert contents(tmp_path) == before | {"run/checkpoint/thesis.tex": b"precious"}


def test_equal_runs_write_equal_checkpoints(sample_build: Path, tmp_path: Path) -> None:
    """Byte for byte: no clock is in them, and no order of chance."""
    for name in "abcd":
        run.train(config(sample_build, "rounds=2"), tmp_path / name)
    first = contents(tmp_path / "a" / "checkpoint")
    assert len(first) == 11
    assert all(contents(tmp_path / name / "checkpoint") == first for name in "bcd")


def test_seconds_are_counted_over_interruptions(sample_build: Path, tmp_path: Path) -> None:
    run.train(config(sample_build), tmp_path / "run")
    clock, result = tmp_path / "run/clock.json", tmp_path / "run/result.json"
    counted = json.loads(clock.read_text())["seconds"]
    assert json.loads(result.read_text())["seconds"] == counted > 0
    for words in ('{"seconds": 1000.0}', None):
        clock.write_text(words) if words else clock.unlink()
        result.unlink()
        run.train(config(sample_build), tmp_path / "run")
        assert json.loads(result.read_text())["seconds"] == (1000 if words else 0)
    result.unlink()
    clock.write_text('{"seconds": "x"}')
    with pytest.raises(OutputError, match=r"clock.json: is damaged"):
        run.train(config(sample_build), tmp_path / "run")


def test_checkpoints_of_the_first_version_are_read(tmp_path: Path) -> None:
    from safetensors.torch import save

    from fedtrain.runs.state import _digest

    state, meta = {"b": torch.ones(2), "a": torch.zeros(1)}, {"facts": '{"n": 1}', "order": '["b", "a"]'}
    (tmp_path / "s").write_bytes(save(state, meta | {"sha256": _digest(state, meta)}))
    back, facts = load_state(tmp_path / "s", CPU)
    assert (list(back), facts) == (["b", "a"], {"n": 1})


def test_two_processes_do_not_share_a_run(sample_build: Path, tmp_path: Path) -> None:
    """Whoever is refused changes nothing, also while the other has written nothing yet."""
    import fcntl

    (tmp_path / "run").mkdir()
    with (tmp_path / "run/.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for overwrite in (False, True):
            with pytest.raises(OutputError, match="another fedkit process is training there"):
                run.train(config(sample_build), tmp_path / "run", overwrite=overwrite)
            assert (tmp_path / "run/.lock").samefile(f"/proc/self/fd/{file.fileno()}" if LINUX else file.name)


def test_states_come_back_as_they_were(tmp_path: Path) -> None:
    state = {
        "z": torch.arange(6.0).view(2, 3).T,  # not contiguous
        "a": torch.tensor(3),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "none": torch.zeros(0, 4),
    }
    state["view"] = state["z"][0]  # shares memory
    save_state(tmp_path / "s", state, {"n": 1})
    back, facts = load_state(tmp_path / "s", CPU)
    assert list(back) == list(state)
    assert facts == {"n": 1}
    assert all(torch.equal(back[name], value) and back[name].dtype == value.dtype for name, value in state.items())
    save_state(tmp_path / "empty", {}, {})
    assert load_state(tmp_path / "empty", CPU) == ({}, {})
    assert sorted(p.name for p in tmp_path.iterdir() if "_" not in p.name) == ["empty", "s"]


def test_a_full_disk_is_one_line(sample_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    replace, count = os.replace, []

    def full(*arguments: Any) -> Any:
        count.append(1)
        if len(count) == 9:
            raise OSError(errno.ENOSPC, "No space left on device", str(arguments[1]))
        return replace(*arguments)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match=r"cannot be written \(No space left on device\); free some space and run"):
        run.train(config(sample_build), tmp_path / "run")
    run.train(config(sample_build), tmp_path / "run")
    monkeypatch.undo()
    monkeypatch.setitem(methods.METHODS, "softmax", Softmax)
    run.train(config(sample_build), tmp_path / "whole")
    assert final(tmp_path / "run") == final(tmp_path / "whole")
