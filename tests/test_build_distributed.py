"""Builds on Ray, on one node and on two, with workers killed; and copies to an S3 that moto plays."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import answer, contents, environment, fedkit, refused, sampled

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(find_spec("ray") is None, reason="needs fedrsic[distributed]"),
]

WANTED = ("build", "fed-rsic", "--sample", "--subset", "fed-ucmerced")
SETS = ("--set", "sample.per_class=6", "--set", "sample.size=32")
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return contents(sampled(tmp_path_factory.mktemp("reference") / "fed").path)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def ray_processes() -> set[str]:
    """Processes of Ray on this machine: number and what they run."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if "ray::" in line or "raylet" in line or "gcs_server" in line:
            found.add(f"{entry.parent.name} {line[:60]}")
    return found


def gone(before: set[str]) -> bool:
    """Whether all of Ray that was started since is stopped."""
    for _ in range(100):
        if ray_processes() <= before:
            return True
        time.sleep(0.2)
    return False


def test_the_bytes_are_those_of_threads(tmp_path: Path, reference: dict[str, bytes]) -> None:
    before = ray_processes()
    done = fedkit(*WANTED, *SETS, "--engine", "ray", "--jobs", 2, "--out", tmp_path / "fed", "--json", **QUIET)
    assert answer(done)["shards_written"] == 20
    assert contents(tmp_path / "fed") == reference
    assert os.listdir(tmp_path) == ["fed"]
    assert gone(before)


def test_a_worker_killed_in_mid_task_changes_nothing(tmp_path: Path, reference: dict[str, bytes]) -> None:
    """Every shard's first writer dies between opening the file and moving it into place."""
    script = tmp_path / "killing.py"
    script.write_text(
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from fedrsic_data import recipes\n"
        "from fedrsic_data.build import engines, pipeline, shards\n"
        "from fedrsic_data.build.engines import ray as engine\n"
        "from fedrsic_data.sources.locate import Places\n"
        "marks = Path(sys.argv[2])\n"
        "def deadly(task, containers, folder):\n"
        "    from fedrsic_data.build.engines.base import write\n"
        "    mark, replace = marks / task.job.path.replace('/', '-'), os.replace\n"
        "    def first(source, target):\n"
        "        if not mark.exists() and str(target).endswith('.parquet'):\n"
        "            mark.touch()\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        replace(source, target)\n"
        "    os.replace = first\n"
        "    try:\n"
        "        return write(task, containers, folder)\n"
        "    finally:\n"
        "        os.replace = replace\n"
        "engine.write = deadly\n"
        "sets = ['sample.per_class=6', 'sample.size=32']\n"
        "data = recipes.override(recipes.load('fed-rsic'), subsets=['fed-ucmerced'], sample=True, sets=sets)\n"
        "planned = pipeline.prepare(recipes.from_json(data, 'test'), Places(offline=True))\n"
        "pipeline.build(planned, Path(sys.argv[1]), engine=engines.chosen('ray', 2))\n"
    )
    (tmp_path / "marks").mkdir()
    before = ray_processes()
    done = subprocess.run(
        [sys.executable, script, tmp_path / "fed", tmp_path / "marks"],
        env=environment(**QUIET),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "marks").iterdir())) == 20
    assert contents(tmp_path / "fed") == reference
    assert gone(before)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """Two nodes on loopback with a CPU each: the head's address."""
    before = ray_processes()
    address = f"127.0.0.1:{free_port()}"
    env = environment(**QUIET)
    ray = [
        str(Path(sys.executable).with_name("ray")),
        "start",
        "--block",
        "--num-cpus=1",
        "--node-ip-address=127.0.0.1",
    ]
    memory = ["--object-store-memory=100000000", "--disable-usage-stats"]
    head = [*ray, "--head", f"--port={address.rpartition(':')[2]}", "--include-dashboard=false", *memory]
    nodes = []
    try:
        for command in (head, [*ray, f"--address={address}", *memory]):
            with (tmp_path / f"node-{len(nodes)}.log").open("w") as log:
                nodes.append(subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True))
            deadline = time.monotonic() + 60
            while "--block" not in (tmp_path / f"node-{len(nodes) - 1}.log").read_text():
                assert nodes[-1].poll() is None, (tmp_path / f"node-{len(nodes) - 1}.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield address
    finally:
        for node in reversed(nodes):
            node.send_signal(signal.SIGTERM)
        for node in nodes:
            try:
                node.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(node.pid, signal.SIGKILL)
                node.wait()
        assert gone(before)


def test_a_cluster_of_two_nodes(cluster: str, tmp_path: Path, reference: dict[str, bytes]) -> None:
    out = tmp_path / "fed"
    done = fedkit(*WANTED, *SETS, "--engine", "ray", "--ray-address", cluster, "--out", out, "--json", **QUIET)
    assert answer(done)["shards_written"] == 20
    assert contents(out) == reference


def test_no_cluster_there(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    done = fedkit(*WANTED, *SETS, "--engine", "ray", "--ray-address", address, "--out", tmp_path / "fed", **QUIET)
    refused(done, f"--ray-address {address}", "no Ray cluster answers", codes=(2,))
    assert not list(tmp_path.glob("fed*"))


@pytest.mark.parametrize("given", ["its address", "auto"])
def test_what_listens_there_is_no_ray(tmp_path: Path, given: str) -> None:
    """Ray would wait for it for minutes."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        asked = "auto" if given == "auto" else address
        began = time.monotonic()
        wanted = (*WANTED, *SETS, "--engine", "ray", "--ray-address", asked, "--out", tmp_path / "fed")
        done = fedkit(*wanted, **QUIET, RAY_ADDRESS=address)
    refused(done, f"--ray-address {asked}: no Ray cluster answers there", "HOST:PORT", codes=(2,))
    assert time.monotonic() - began < 60
    assert not list(tmp_path.glob("fed*"))


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket of an S3 on loopback, as a URI."""
    moto = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=free_port(), verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        boto3.client("s3").create_bucket(Bucket="data")
        yield "s3://data"
    finally:
        server.stop()


def test_s3_has_what_a_folder_has(bucket: str, reference: dict[str, bytes]) -> None:
    import boto3

    out = f"{bucket}/some/fed"
    told = answer(fedkit(*WANTED, *SETS, "--out", out, "--json"))
    assert told["path"] == out
    store = boto3.client("s3")

    def there() -> dict[str, bytes]:
        listed = store.list_objects_v2(Bucket="data").get("Contents", [])
        files = [entry["Key"] for entry in listed if not entry["Key"].endswith("/")]
        return {key.removeprefix("some/fed/"): store.get_object(Bucket="data", Key=key)["Body"].read() for key in files}

    assert there() == reference
    assert answer(fedkit(*WANTED, *SETS, "--out", out, "--json"))["shards_written"] == 0
    refused(fedkit(*WANTED, *SETS, "--clients", 3, "--out", out), out, "--overwrite", codes=(1,))
    refused(fedkit(*WANTED, *SETS, "--out", "s3://absent/fed"), "s3://absent/fed", codes=(1,))
    assert there() == reference
