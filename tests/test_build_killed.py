"""Builds killed at any moment: the next one completes, and its bytes are those of a build that was left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, contents, environment, sampled

from fedrsic_data import recipes
from fedrsic_data.build import pipeline
from fedrsic_data.sources.locate import Places

pytestmark = pytest.mark.slow

BUILD = ("build", "fed-rsic", "--sample", "--subset", "fed-ucmerced")
SETS = ("sample.per_class=12", "sample.size=32", "clients=40")

# A process of its own that builds again and again, each time in a fork that dies just before its n-th change to the
# file system (n = 1, 2, ...), until a build gets through.
KILLER = """
import hashlib, itertools, json, os, random, shutil, signal, sys, time
from pathlib import Path

from conftest import contents, sampled

top, scenario = Path(sys.argv[1]), sys.argv[2]
SETS = ("clients=20", "sample.per_class=8") if scenario == "moments" else ("clients=2", "sample.per_class=2")
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def changes(event, args):
    if event == "open":
        nowhere = str(args[0]).startswith("/dev/") or os.path.isdir(args[0])  # a file in a folder, without a name
        return bool((args[2] or 0) & WRITES) and not nowhere
    return event in CHANGES


def attempt(out, *sets, kill_at=None, kill_after=None, overwrite=False):
    # 9: killed; 0: done; 1: failed, with the words
    words, pen = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(words)
        code = 0
        if kill_at is not None:
            count = itertools.count(1)

            def die(event, args):
                if changes(event, args) and next(count) == kill_at:
                    os.write(pen, f"{event} {args[0]}".encode())
                    os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(die)
        try:
            build(out, *sets, overwrite=overwrite)
        except BaseException as error:
            os.write(pen, f"{type(error).__name__}: {error}".encode())
            code = 1
        os._exit(code)
    os.close(pen)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(words, "rb") as pipe:
        said = pipe.read().decode()
    status = os.waitpid(child, 0)[1]
    return 9 if os.WIFSIGNALED(status) else os.WEXITSTATUS(status), said


def build(out, *sets, overwrite=False):
    from fedrsic_data import recipes
    from fedrsic_data.build import pipeline
    from fedrsic_data.sources.locate import Places

    sets = ["sample.per_class=6", "sample.size=32", *SETS, *sets]
    data = recipes.override(recipes.load("fed-rsic"), subsets=["fed-ucmerced"], sample=True, sets=sets)
    planned = pipeline.prepare(recipes.from_json(data, "test"), Places(offline=True))
    pipeline.build(planned, out, overwrite=overwrite)


def here(folder):
    return {name: hashlib.sha256(data).hexdigest() for name, data in contents(folder).items()}


def must(done):
    assert done[0] == 0, done
    return done


build(top / "reference" / "fed")  # here, so that the forks need not import and warm up
must(attempt(top / "old" / "fed", "seed=7"))
new, old = here(top / "reference" / "fed"), here(top / "old" / "fed")
overwrite = scenario == "overwrite"
problems, kills, n = [], 0, 0
if scenario in ("resume", "another"):
    broken = top / "broken" / "fed.incomplete"
    assert attempt(top / "broken" / "fed", *(["seed=7"] if scenario == "another" else []), kill_at=26)[0] == 9
    assert list(broken.rglob("*.parquet"))
begun = time.monotonic()
must(attempt(top / "timed" / "fed"))
seconds = time.monotonic() - begun
chance = random.Random(20)
while True:
    n += 1
    place = top / f"{scenario}-{n}"
    out = place / "fed"
    if scenario == "overwrite":
        shutil.copytree(top / "old" / "fed", out)
    elif scenario == "mend":
        shutil.copytree(top / "reference" / "fed", out)
        for shard in sorted((out / "fed-ucmerced").rglob("*.parquet"))[:2]:
            shard.write_bytes(shard.read_bytes()[:-1])
    elif scenario == "resume":
        shutil.copytree(broken, place / "fed.incomplete")
    elif scenario == "another":  # what stands there interrupted is of another recipe
        shutil.copytree(broken, place / "fed.incomplete")
    if scenario == "moments":
        if n > 20:
            break
        code, at = attempt(out, kill_after=(moment := chance.uniform(n - 1, n) / 20 * seconds))
        at = f"after {moment:.3f} of {seconds:.3f} s"
        if code != 9:  # it was quicker this time
            code = 9
            kills -= 1
    else:
        code, at = attempt(out, kill_at=n, overwrite=overwrite)
    if code != 9:
        if code:
            problems.append([n, "not killed", at])
        if here(out) != new or os.listdir(place) != ["fed"]:
            problems.append([n, "not killed", "is not the reference"])
        break
    kills += 1
    found = here(out) if out.exists() else None
    if scenario != "mend" and found not in (None, new, old if overwrite else new):
        problems.append([n, at, "a mixture: " + ", ".join(sorted(found)[:9])])
    code, words = attempt(out, overwrite=overwrite and found != new)
    if code:
        problems.append([n, at, "the next build fails: " + words])
    elif here(out) != new:
        extra = sorted(set(here(out)) ^ set(new))
        problems.append([n, at, "the next build gives other files: " + ", ".join(extra or ["same names"])])
    elif os.listdir(place) != ["fed"]:
        problems.append([n, at, "left beside it: " + ", ".join(sorted(os.listdir(place)))])
    shutil.rmtree(place)
print(json.dumps({"kills": kills, "problems": problems}))
"""


def start(out: Path, *more: str) -> subprocess.Popen[str]:
    """A build in a process of its own, once it has begun to work."""
    sets = [word for one in SETS for word in ("--set", one)]
    child = subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), *BUILD, *sets, "--out", str(out), *more],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert child.stderr is not None
    assert "planning" in child.stderr.readline()
    return child


def kill_after(out: Path, seconds: float, *more: str) -> bool:
    """Whether the build was still running when it was killed."""
    child = start(out, *more)
    time.sleep(seconds)
    running = child.poll() is None
    child.send_signal(signal.SIGKILL)
    child.communicate()
    return running


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], float]:
    """The files of a build that nobody interrupted, and the seconds it took from the first sign of work."""
    out = tmp_path_factory.mktemp("whole") / "fed"
    child = start(out)
    begun = time.monotonic()
    child.communicate()
    assert child.returncode == 0
    return contents(out), time.monotonic() - begun


def is_whole(out: Path, reference: dict[str, bytes]) -> None:
    """All files, no other, nothing beside the folder."""
    found = contents(out)
    assert sorted(found) == sorted(reference)
    assert found == reference
    assert os.listdir(out.parent) == ["fed"]


def again(out: Path, *, overwrite: bool = False) -> None:
    """The next build, left alone."""
    sets = ["sample.per_class=6", *SETS]
    data = recipes.override(recipes.load("fed-rsic"), subsets=["fed-ucmerced"], sample=True, sets=sets)
    planned = pipeline.prepare(recipes.from_json(data, "test"), Places(offline=True))
    pipeline.build(planned, out, overwrite=overwrite)


def test_killed_again_and_again_before_it_completes(tmp_path: Path, whole: tuple[dict[str, bytes], float]) -> None:
    reference, seconds = whole
    chance = random.Random(5)
    out = tmp_path / "1" / "fed"
    for _ in range(3):
        kill_after(out, chance.uniform(0.1, 0.6) * seconds)
    again(out)
    is_whole(out, reference)


def test_killed_while_it_replaces_an_older_dataset(tmp_path: Path, whole: tuple[dict[str, bytes], float]) -> None:
    reference, seconds = whole
    chance = random.Random(9)
    for i in range(3):
        out = tmp_path / str(i) / "fed"
        sampled(out, "seed=7", "clients=3")
        older = contents(out)
        kill_after(out, chance.uniform(i / 3, (i + 1) / 3) * seconds, "--overwrite")
        if out.exists():
            assert contents(out) in (older, reference)
        again(out, overwrite=True)
        is_whole(out, reference)


def test_what_an_interrupted_build_finished_is_kept(tmp_path: Path, whole: tuple[dict[str, bytes], float]) -> None:
    reference, _ = whole
    out = tmp_path / "1" / "fed"
    aside = out.with_name("fed.incomplete") / "data"
    child = start(out)
    while child.poll() is None and len(list(aside.rglob("*.parquet"))) < 16:
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    finished = {p: p.stat().st_mtime_ns for p in aside.rglob("*.parquet")}
    assert len(finished) >= 16
    again(out)
    is_whole(out, reference)
    kept = [p for p, stamp in finished.items() if (out / p.relative_to(aside)).stat().st_mtime_ns == stamp]
    assert len(kept) >= len(finished) - 8  # those not yet in the journal are written again


def killing(tmp_path: Path, scenario: str) -> int:
    """How often a build was killed; everything that was wrong afterwards fails the test."""
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path), scenario],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert not answer["problems"], "\n".join(" | ".join(map(str, problem)) for problem in answer["problems"])
    kills: int = answer["kills"]
    return kills


def test_killed_at_twenty_random_moments(tmp_path: Path) -> None:
    assert killing(tmp_path, "moments") >= 12, "most of the builds were over before they were killed"


@pytest.mark.parametrize("scenario", ["fresh", "resume", "another", "overwrite", "mend"])
def test_killed_before_every_single_change_to_the_file_system(tmp_path: Path, scenario: str) -> None:
    assert killing(tmp_path, scenario) >= 2
