"""The page on federations, command by command on loopback, with TLS and node authentication; and what may go wrong."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import ROOT
from softmax_runs import lines

from fedtrain.runs.files import CHECKPOINT

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(find_spec("flwr") is None or find_spec("ray") is None, reason="needs fedrsic[distributed]"),
]

BACKGROUND = ("flower-superlink", "flower-supernode")


def free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in held]
    for one in held:
        one.close()
    return ports


@dataclass
class Federation:
    """A folder in which commands of the page have run, and the processes that still do."""

    folder: Path
    env: dict[str, str]
    changes: dict[str, str]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def words(self, command: str) -> str:
        """A command of the page, for loopback."""
        for old, new in self.changes.items():
            command = command.replace(old, new)
        return command

    def run(self, command: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            shlex.split(self.words(command)),
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def must(self, command: str, timeout: float = 300) -> str:
        done = self.run(command, timeout)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}\n{self.log()}"
        return done.stdout

    def start(self, name: str, command: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                shlex.split(self.words(command)),
                cwd=self.folder,
                env=self.env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self.running[name]

    def kill(self, name: str) -> None:
        """Kills a process, if it still runs, and its children, which outlive it."""
        process = self.running.pop(name)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        for process in self.running.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self.running.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                pass
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def log(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-1500:] for path in sorted(self.folder.glob("*.log")))


def page() -> list[tuple[str, str]]:
    """The blocks of the part on real sites: language and text."""
    text = (ROOT / "docs" / "distributed.md").read_text().partition("## A federation of real sites")[2]
    return re.findall(r"```(bash|toml)\n(.*?)```", text, flags=re.DOTALL)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """All commands of the page have run, up to those of the run itself."""
    folder = tmp_path_factory.mktemp("federation")
    link, *nodes = free_ports(3)
    changes = {
        "server.example.org": "localhost",
        "9443": str(link),
        "9094": str(nodes[0]),
        "9095": str(nodes[1]),
        "/srv/federation": str(folder),
    }
    env = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "FLWR_HOME": str(folder / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FEDKIT_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    (folder / "flwr").mkdir()
    (folder / "fedkit").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {ROOT / "cli.py"} "$@"\n')
    (folder / "fedkit").chmod(0o755)
    env["PATH"] = os.pathsep.join([str(folder), env["PATH"]])
    made = Federation(folder, env, changes)
    try:
        for language, text in page():
            if language == "toml":
                (folder / "flwr" / "config.toml").write_text(made.words(text))
                continue
            for line in text.splitlines():
                if line.startswith("fedkit flower run"):
                    break
                _followed(made, line)
        yield made
    finally:
        made.stop()


def _followed(made: Federation, line: str) -> None:
    if line.startswith(BACKGROUND):
        name = "link" if "superlink " in line.partition("--")[0] else re.search(r"private-key (\S+)", line).group(1)
        process = made.start(name, line)
        time.sleep(1)
        assert process.poll() is None, made.log()
    elif "supernode register" in line:
        deadline = time.monotonic() + 90
        while made.run(line).returncode != 0:  # until the SuperLink is up
            assert time.monotonic() < deadline, made.log()
            time.sleep(1)
    else:
        made.must(line)


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def close(left: dict, right: dict) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        same = value == right[name] or math.isclose(value, right[name], rel_tol=1e-6, abs_tol=1e-6)
        assert same, (name, value, right[name])


def simulated(federation: Federation, method: str, data: str, out: str, *sets: str) -> Path:
    more = " ".join(f"--set {text}" for text in sets)
    federation.must(f"fedkit train {method} --manifest {data} --engine flower --out {out} {more}")
    return federation.folder / out


def test_the_page_to_its_end(federation: Federation) -> None:
    """FedPGP over real nodes, in the simulation and in one process comes to the same."""
    last = [line for language, text in page() if language == "bash" for line in text.splitlines()]
    for line in last[[line.startswith("fedkit flower run") for line in last].index(True) :]:
        said = federation.must(line)
        if line.startswith("fedkit flower run"):
            assert "runs/federation, on the server: 2 rounds" in said
        if line.startswith("fedkit compare"):
            assert "test/local/mean" in said
            assert "engine federation" in said
            assert "engine local" in said
            assert "±" not in said  # one seed: two engines, and no spread
    runs = federation.folder / "runs"
    close(result(runs / "federation")["figures"], result(runs / "local")["figures"])
    simulation = simulated(federation, "fedpgp", "data/fed", "runs/simulation", "rounds=2")
    assert lines(simulation) == lines(runs / "federation")  # to the bit: both see a site's rows only
    close(lines(runs / "local")[-1]["figures"], lines(simulation)[-1]["figures"])
    kept = sorted(p.name for p in federation.folder.glob("states-*/*/*"))
    assert [name for name in kept if name.endswith("00002.safetensors")] == [
        f"client-0000{k}-round-00002.safetensors" for k in (0, 1)
    ]
    assert not (runs / "federation" / CHECKPOINT / "personal").exists()


def test_fedrsclip(federation: Federation) -> None:
    out = federation.folder / "runs" / "rsclip"
    change = f"method='fedrsclip' sets='rounds=1 epochs=1' out='{out}'"
    federation.must(f"fedkit flower run my-app federation --run-config {shlex.quote(change)}")
    federation.must("fedkit train fedrsclip --manifest data/fed --set rounds=1 --set epochs=1 --out runs/rsclip-local")
    close(result(out)["figures"], result(federation.folder / "runs" / "rsclip-local")["figures"])
    simulation = simulated(federation, "fedrsclip", "data/fed", "runs/rsclip-sim", "rounds=1", "epochs=1")
    assert lines(simulation) == lines(out)


def test_a_node_that_is_not_registered_is_refused(federation: Federation) -> None:
    federation.must("ssh-keygen -q -t ecdsa -b 384 -N '' -f stranger")
    (port,) = free_ports(1)
    command = (
        f"flower-supernode --superlink server.example.org:9443 --root-certificates ca.crt --port {port} "
        "--auth-supernode-private-key stranger --node-config \"manifest='sites/client-0000'\""
    )
    stranger = federation.start("stranger", command)
    try:
        assert stranger.wait(60) != 0
    finally:
        federation.kill("stranger")
    assert "2004" in (federation.folder / "stranger.log").read_text()


def test_a_run_that_fails_says_so(federation: Federation) -> None:
    change = shlex.quote("manifest='/nowhere' out='/nowhere'")
    done = federation.run(f"fedkit flower run my-app federation --run-config {change}")
    assert done.returncode == 1, done.stderr
    assert "ended as finished:failed, error: /nowhere: does not exist" in done.stderr.splitlines()[-1]
    done = federation.run("fedkit flower run my-app federation --run-config \"sets='dp.epsilonn=1' out='/nowhere'\"")
    assert "did you mean 'dp.epsilon'" in done.stderr.splitlines()[-1]


def test_a_node_killed_in_a_round_comes_back_with_its_prompts(federation: Federation) -> None:
    out = federation.folder / "runs" / "killed"
    rounds = 7
    change = f"sets='rounds={rounds} epochs=1 eval_every={rounds} flower.timeout=30' out='{out}'"
    command = f"fedkit flower run my-app federation --run-config {shlex.quote(change)}"
    running = federation.start("run", command)
    (node,) = [line for language, text in page() for line in text.splitlines() if "private-key site-1" in line]
    states = federation.folder / "states-1"
    deadline = time.monotonic() + 240

    def until(reached: object) -> None:
        while not reached():  # type: ignore[operator]
            assert time.monotonic() < deadline, federation.log()
            assert running.poll() is None, federation.log()
            time.sleep(0.2)

    until(lambda: (out / "metrics.jsonl").exists() and len(lines(out)) >= 1)
    federation.kill("site-1")
    assert list(states.glob("*/client-00001-round-00001*"))
    federation.start("site-1", node)
    deadline = time.monotonic() + 400
    while running.poll() is None:
        assert time.monotonic() < deadline, federation.log()
        if federation.running["site-1"].poll() is not None:  # refused: the SuperLink still takes the old one for alive
            federation.kill("site-1")
            federation.start("site-1", node)
        time.sleep(1)
    code = federation.running.pop("run").returncode
    logged = lines(out)
    assert code == 0, federation.log()
    assert len(logged) == rounds
    assert [line["clients"] + line["dropped"] for line in logged] == [2] * rounds
    assert result(out)["counters"]["dropped"] == sum(line["dropped"] for line in logged) > 0
    assert logged[-1]["clients"] == 2, federation.log()  # it is back
    # and it went on from what it had: the state before its last was still there to go on from, none was begun anew
    assert "personal state" not in federation.log()
    assert list(states.glob(f"*/client-00001-round-{rounds:05d}*"))


@pytest.fixture
def label_sets(federation: Federation) -> Iterator[str]:
    """A dataset with label sets, whose two sites' nodes stand beside the others."""
    sets = "--set sample.users=10 --set sample.size=64"
    federation.must(f"fedkit build coco --sample --clients 2 {sets} --out data/multi")
    federation.must("fedkit split-sites data/multi --out multi-sites")
    names = []
    try:
        for number, port in enumerate(free_ports(2)):
            name = f"multi-{number}"
            federation.must(f"ssh-keygen -q -t ecdsa -b 384 -N '' -f {name}")
            federation.must(f"flwr supernode register {name}.pub federation")
            folder = federation.folder / "multi-sites" / f"client-000{number}"
            federation.start(
                name,
                f"flower-supernode --superlink server.example.org:9443 --root-certificates ca.crt --port {port} "
                f"--auth-supernode-private-key {name} --node-config \"manifest='{folder}'\"",
            )
            names.append(name)
        yield "data/multi"
    finally:
        for name in names:
            federation.kill(name)


def test_fedlgt(federation: Federation, label_sets: str) -> None:
    out = federation.folder / "runs" / "lgt"
    sets = ("rounds=1", "epochs=1", "image_size=64", "layers=1", "flower.scores=true")
    manifest = federation.folder / "multi-sites" / "server"
    change = f"method='fedlgt' manifest='{manifest}' sets='{' '.join(sets)}' out='{out}'"
    federation.must(f"fedkit flower run my-app federation --run-config {shlex.quote(change)}")
    more = " ".join(f"--set {text}" for text in sets)
    federation.must(f"fedkit train fedlgt --manifest {label_sets} {more} --out runs/lgt-local")
    close(result(out)["figures"], result(federation.folder / "runs" / "lgt-local")["figures"])
    simulation = simulated(federation, "fedlgt", label_sets, "runs/lgt-sim", *sets)
    assert lines(simulation) == lines(out)
