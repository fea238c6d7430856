"""Ctrl-C and SIGTERM at any moment, pipes where files should be, and systems that give too little: one line."""

from __future__ import annotations

import io
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, environment, refused

from fedrsic_data.build import record
from fedrsic_data.cli import console
from fedrsic_data.errors import DownloadError, FedkitError, OutputError
from fedrsic_data.files import atomic
from fedrsic_data.raw.download import fetch
from fedrsic_data.raw.remote import RemoteFile
from fedrsic_data.sources import mirror

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and pipes are another system's")

SAMPLE = ["build", "fed-rsic", "--sample", "--subset", "fed-ucmerced"]
LONG = [*SAMPLE, "--set", "sample.per_class=400", "--set", "sample.size=64", "--set", "clients=50"]
LINES = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated")}


def start(*words: object, cwd: Path) -> subprocess.Popen[str]:
    """A command as the leader of a group of its own, as shells make them."""
    env = environment()
    return subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), *map(str, words)],
        cwd=cwd,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )


def until(condition: Callable[[], object], child: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def stopped(child: subprocess.Popen[str], number: signal.Signals) -> None:
    """One line, and the exit code that shells give."""
    code, word = LINES[number]
    _, errors = child.communicate(timeout=60)
    lines = [line for line in errors.splitlines() if not line.endswith(" ...")]
    assert lines == [f"error: {word}; run the same command to resume"]
    assert child.returncode == code


@pytest.mark.parametrize("number", LINES)
@pytest.mark.parametrize("jobs", [1, 3])
def test_a_signal_to_all_processes_of_a_build(tmp_path: Path, number: signal.Signals, jobs: int) -> None:
    child = start(*LONG, "--jobs", jobs, "--out", "out", cwd=tmp_path)
    until(lambda: list(tmp_path.glob("out.incomplete/**/*.parquet")), child)
    os.killpg(child.pid, number)
    stopped(child, number)
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.incomplete").exists()


@pytest.mark.parametrize("number", LINES)
def test_a_signal_while_worker_processes_are_starting(tmp_path: Path, number: signal.Signals) -> None:
    child = start(*LONG, "--jobs", 3, "--out", "out", cwd=tmp_path)
    until(lambda: "writing" in (child.stderr or io.StringIO()).readline(), child)
    workers = Path(f"/proc/{child.pid}/task/{child.pid}/children")
    if workers.exists():
        until(lambda: len(workers.read_text().split()) > 1, child)
    os.killpg(child.pid, number)
    stopped(child, number)


def test_a_second_signal_while_the_first_is_answered_is_no_traceback(tmp_path: Path) -> None:
    child = start(*LONG, "--jobs", 3, "--out", "out", cwd=tmp_path)
    until(lambda: list(tmp_path.glob("out.incomplete/**/*.parquet")), child)
    for _ in range(5):
        os.killpg(child.pid, signal.SIGINT)
        time.sleep(0.02)
    stopped(child, signal.SIGINT)


@pytest.mark.parametrize("number", LINES)
def test_a_signal_while_a_run_trains_or_is_still_importing(
    tmp_path: Path, sample_build: Path, number: signal.Signals
) -> None:
    run = ["train", "promptfl", "--manifest", sample_build, "--rounds", 9999, "--out", "run"]
    child = start(*run, cwd=tmp_path)
    time.sleep(1.5)  # somewhere among the imports of PyTorch
    os.killpg(child.pid, number)
    stopped(child, number)
    child = start(*run, cwd=tmp_path)
    until(lambda: (tmp_path / "run/metrics.jsonl").exists(), child)
    os.killpg(child.pid, number)
    stopped(child, number)


def test_signals_are_answered_before_the_command_line_is_imported(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "sys.modules['typer'] = None\n"  # what is imported next
        "import runpy\n"
        "from fedrsic_data import interrupts\n"
        "main = runpy.run_path(sys.argv[1])['main']\n"
        "class Late:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'fedrsic': os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.meta_path.insert(0, Late())\n"
        "main()\n"
    )
    env = environment()
    words = [sys.executable, "-c", code, str(ROOT / "__main__.py")]
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (143, "error: terminated; run the same command to resume\n")


def test_a_signal_that_came_while_an_object_was_deleted_comes_again(tmp_path: Path) -> None:
    code = (
        "import os, signal, time\n"
        "from fedrsic_data import interrupts\n"
        "from fedrsic_data.cli import console\n"
        "interrupts.install()\n"
        "class Odd:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        for _ in range(9): pass\n"
        "def app(**_):\n"
        "    Odd()\n"
        "    time.sleep(30)\n"
        "console.run_app(app)\n"
    )
    env = environment()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=25
    )
    assert (done.returncode, done.stderr) == (130, "error: interrupted; run the same command to resume\n")


def test_a_thread_that_works_on_does_not_keep_a_stopped_process(tmp_path: Path) -> None:
    code = (
        "import atexit, os, signal, threading, time\n"
        "from fedrsic_data import interrupts\n"
        "from fedrsic_data.cli import console\n"
        "interrupts.install()\n"
        "atexit.register(print, 'left in order')\n"
        "def app(**_):\n"
        "    threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(30)\n"
        "console.run_app(app)\n"
    )
    env = environment(PYTHONUNBUFFERED="1")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=25
    )
    assert (done.returncode, done.stdout) == (143, "left in order\n")


LOST = """
import ctypes, gc, os, signal, sys, time, weakref
from fedrsic_data import interrupts

interrupts.install()
number = signal.Signals[sys.argv[1]]

def come():
    os.kill(os.getpid(), number)
    for _ in range(9): pass

class Odd:
    def __del__(self): come()

def caught():
    try: come()
    except BaseException: pass

def replaced():
    try: caught()
    finally:
        try:
            try: come()
            except BaseException: raise ImportError from None
        except ImportError: pass

def forgotten_in_c():
    ctypes.CFUNCTYPE(None)(come)()

def deleted():
    Odd()

def watched():
    odd = set(); weakref.finalize(odd, come); del odd

def sorting():
    try: sorted([1, 2], key=lambda _: come())
    except BaseException: pass

def often():
    for _ in range(3): caught(); time.sleep(0.1)

for lose in (caught, replaced, forgotten_in_c, deleted, watched, sorting, often):
    try:
        with interrupts.working():
            lose()
            time.sleep(30)
        print(lose.__name__, "went on")
    except interrupts.Stopped:
        print(interrupts.asked() is number)
"""


@pytest.mark.parametrize("number", LINES)
def test_a_signal_that_other_code_loses_is_answered_all_the_same(tmp_path: Path, number: signal.Signals) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOST, number.name],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n" * 7, "")


IMPORTING = """
import os, signal, sys
from pathlib import Path
from fedrsic import cli
from fedrsic_data import interrupts

assert "pandas" not in sys.modules
moments = [*range(0, 200, 25)]
for moment in moments:
    number = (signal.SIGINT, signal.SIGTERM)[moment % 2]
    read, written = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(written, 2)
        sys.stdout, sys.stderr = open(os.devnull, "w"), open(2, "w", buffering=1, closefd=False)
        interrupts.install()

        class Signals:
            left = moment

            def find_spec(self, name, *_):
                if name.startswith("pandas"):
                    if not self.left: os.kill(os.getpid(), number)
                    self.left -= 1

        sys.meta_path.insert(0, Signals())
        sys.argv = ["fedkit", *sys.argv[1:]]
        try:
            cli.main()
        except SystemExit as ended:
            os._exit(ended.code)
    os.close(written)
    with open(read) as said:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + number, said.read(), end="")
"""


def test_a_signal_while_arrow_imports_pandas_is_answered(tmp_path: Path, sample_build: Path) -> None:
    pytest.importorskip("pandas")
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING, "split-sites", str(sample_build), "--out", str(tmp_path / "sites")],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stderr == ""
    assert set(done.stdout.splitlines()) == {
        f"True error: {word}; run the same command to resume" for _, word in LINES.values()
    }
    assert len(done.stdout.splitlines()) == 8


ENDS = {
    "a command that keeps the exception and goes on": (
        "def app(**_):\n    try: come()\n    except BaseException as error: sys.kept = error\n    print('done')\n",
        (143, "done\n", "error: terminated; run the same command to resume\n"),
    ),
    "one that makes another error of it": (
        "def app(**_):\n    try: come()\n    except BaseException: raise KeyError from None\n",
        (143, "", "error: terminated; run the same command to resume\n"),
    ),
    "while the last words are written": (
        (
            "def app(**_):\n"
            "    class Out(io.TextIOWrapper): flush = lambda self: (come(), super(Out, self).flush())\n"
            "    sys.stdout = Out(io.FileIO(1, 'w', closefd=False))\n"
            "    sys.stdout.write('done')\n"
        ),
        (0, "done", ""),
    ),
    "while the exit functions are called": ("def app(**_): atexit.register(come)\n", (0, "", "")),
    "while the interpreter is taken apart": (
        "class Last:\n    def __del__(self, come=come): come()\nlast = Last()\ndef app(**_): pass\n",
        (0, "", ""),
    ),
}


@pytest.mark.parametrize("moment", ENDS)
def test_a_signal_at_the_very_end_of_a_command_is_answered_or_changes_nothing(tmp_path: Path, moment: str) -> None:
    app, expected = ENDS[moment]
    code = (
        "import atexit, io, os, signal, sys\n"
        "from fedrsic_data import interrupts\n"
        "from fedrsic_data.cli import console\n"
        "interrupts.install()\n"
        "def come(kill=os.kill, number=signal.SIGTERM, me=os.getpid()):\n"
        "    kill(me, number)\n"
        "    for _ in range(9): pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{code}{app}console.run_app(app)\n"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=25,
    )
    assert (done.returncode, done.stdout, done.stderr) == expected


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("number", LINES)
def test_a_signal_to_a_simulation(tmp_path: Path, sample_build: Path, number: signal.Signals) -> None:
    pytest.importorskip("ray")
    pytest.importorskip("flwr")
    run = ["train", "promptfl", "--manifest", sample_build, "--rounds", 9999, "--engine", "flower", "--out", "run"]
    child = start(*run, cwd=tmp_path)
    end = time.monotonic() + 120
    while not (tmp_path / "run/metrics.jsonl").exists() and time.monotonic() < end:
        time.sleep(0.1)
    os.killpg(child.pid, number)
    stopped(child, number)


# Pipes


@pytest.fixture
def within() -> Any:
    """Fails what waits, instead of waiting with it."""

    def late(*_: object) -> None:
        raise AssertionError("it waits for ever")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_a_pipe_among_features_is_computed_anew(within: None, tmp_path: Path) -> None:
    import torch

    from fedtrain.methods.prompts import features

    os.mkfifo(tmp_path / "x.safetensors")
    assert features._read(tmp_path / "x.safetensors", "x", (1, 1), torch.float32) is None


@pytest.mark.parametrize("name", ["x.zip", ".x.zip.lock", "checksums.json", "x.zip.part", "x.zip.part.json"])
def test_a_pipe_among_downloads_is_named(within: None, tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(OutputError, match=name):
        fetch([RemoteFile("http://127.0.0.1:9/x.zip", "x.zip")], tmp_path, attempts=1)


@pytest.mark.parametrize("name", ["revisions.json", f"u--d@{'0' * 40}/a.parquet"])
def test_a_pipe_among_mirrors_is_named(within: None, tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(DownloadError, match=Path(name).name):
        mirror.mirror(mirror.HubMirror("u/d", "0" * 40), tmp_path, offline=True)


def test_a_pipe_in_what_a_build_remembers_is_nothing(within: None, tmp_path: Path) -> None:
    place = record._place(tmp_path / "out")
    place.parent.mkdir(parents=True)
    os.mkfifo(place)
    assert not record.agrees(tmp_path / "out", None, None)  # type: ignore[arg-type]


def test_files_folders_and_links_are_no_pipes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").write_text("x")
    (tmp_path / "c").symlink_to(tmp_path / "none")
    atomic.refuse_pipes(tmp_path)
    atomic.refuse_pipes(tmp_path / "none")


# Systems that give too little


def limited(kilobytes: int, *words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    room = (kilobytes * 1000, kilobytes * 1000)
    return subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, room),
        timeout=120,
        check=False,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited otherwise elsewhere")
@pytest.mark.parametrize(
    ("words", "kilobytes"),
    [
        (["inspect", "DATASET"], 300_000),
        (["verify", "DATASET"], 300_000),
        ([*SAMPLE, "--out", "out"], 300_000),
        (["report", "DATASET"], 300_000),
        (["train", "fedpgp", "--manifest", "DATASET"], 1_500_000),
    ],
)
def test_too_little_memory_is_one_line(sample_build: Path, tmp_path: Path, words: list[str], kilobytes: int) -> None:
    done = limited(kilobytes, *(sample_build if word == "DATASET" else word for word in words), cwd=tmp_path)
    refused(done, "not enough memory", "ulimit -v", codes=(1,))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("words", [["--help"], ["build", "--help"], ["--version"], []])
def test_help_that_cannot_be_printed_is_one_line(words: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, str(ROOT / "cli.py"), *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            check=False,
        )
    refused(done, "cannot be written (No space left on device)", codes=(1,))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(36, "File name too long", "n" * 5000), "cannot be used (File name too long)"),
        (OSError(28, "No space left on device"), "the output: cannot be written"),
        (OSError(24, "Too many open files", "x"), "x: cannot be used (Too many open files)"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("can't start new thread"), "not enough memory"),
        (ImportError("libx.so: failed to map segment from shared object"), "not enough memory"),
        (FedkitError("n" * 5000), "n...n"),
        (SystemExit(15), "terminated"),
    ],
)
def test_what_the_system_refuses_is_one_short_line(
    error: BaseException, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def app(**_: object) -> None:
        raise error

    with pytest.raises(SystemExit):
        console.run_app(app)
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    assert len(line) < 500
    assert said in line


def test_what_is_unknown_is_still_called_a_bug(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        console.run_app(lambda **_: {}["x"])
    assert "this is a bug" in capsys.readouterr().err
