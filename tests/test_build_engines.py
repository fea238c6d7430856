"""Builds by several processes, and to places that are no folders: the bytes of a build by threads."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
import signal
from concurrent.futures import Future
from pathlib import Path

import fsspec
import pytest
from conftest import ROOT, answer, contents, fedkit, make, mirrored, refused, sampled

from fedrsic_data import recipes
from fedrsic_data.build import engines, pipeline, shards
from fedrsic_data.build.engines.base import Task
from fedrsic_data.build.plan import Planned
from fedrsic_data.build.verify import verify
from fedrsic_data.cli import console, tables
from fedrsic_data.dataset import manifest
from fedrsic_data.errors import BadImageError, OutputError, UsageError, discreet, masked
from fedrsic_data.publish import object_store
from fedrsic_data.sources.locate import Places


def planned(*sets: str, places: Places | None = None, sample: bool = True, name: str = "fed-rsic") -> Planned:
    few = "sample.per_class=6" if name == "fed-rsic" else "sample.users=10"
    sets = (few, "sample.size=32", *sets) if sample else sets
    subsets = ["fed-ucmerced"] if name == "fed-rsic" else []
    data = recipes.override(recipes.load(name), subsets=subsets, sample=sample, sets=list(sets))
    return pipeline.prepare(recipes.from_json(data, "test"), places or Places(offline=True))


def children() -> set[int]:
    """Processes of this one."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        if int(text.rpartition(")")[2].split()[1]) == os.getpid():
            found.add(int(stat.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("files", ["client", "packed"])
def test_processes_write_the_same_bytes(tmp_path: Path, files: str) -> None:
    sets = (f"layout.files={files}", "layout.shard_bytes=60000", "clients=5")
    one = pipeline.build(planned(*sets), tmp_path / "threads")
    two = pipeline.build(planned(*sets), tmp_path / "processes", engine=engines.chosen(jobs=2))
    assert two.written == one.written > 3
    assert contents(one.path) == contents(two.path)
    assert verify(two.path)[1] == []


@pytest.mark.slow
def test_every_kind_of_source_can_be_sent(ucmerced: Path, tmp_path: Path) -> None:
    """Folders, zip archives and Parquet files, the last by way of a scratch file that is gone afterwards."""
    reference = contents(make(tmp_path / "reference", Places(given={"ucmerced": str(ucmerced)})).path)
    archive = shutil.make_archive(str(tmp_path / "UCMerced_LandUse"), "zip", ucmerced)
    mirror = mirrored(ucmerced, tmp_path / "mirror")
    for form in (ucmerced, Path(archive), mirror):
        places = Places(given={"ucmerced": str(form)})
        out = tmp_path / f"of-{form.name}"
        pipeline.build(planned(places=places, sample=False), out, engine=engines.chosen(jobs=2))
        assert contents(out) == reference
        assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(out.name)) == [out.name]


@pytest.mark.slow
def test_label_sets_and_fine_labels_can_be_sent(tmp_path: Path) -> None:
    one = pipeline.build(planned("sample.size=64", name="flair"), tmp_path / "threads")
    two = pipeline.build(planned("sample.size=64", name="flair"), tmp_path / "processes", engine=engines.chosen(jobs=2))
    assert contents(one.path) == contents(two.path)


def test_a_task_is_sent_with_its_own_rows_only() -> None:
    whole = planned("clients=5")
    rows, jobs, options = pipeline._jobs(whole.recipe, whole.subsets[0])
    job = jobs[2]
    sent = Task("fed-ucmerced", job, rows, options).sent()
    assert sent.rows.table.num_rows == job.count < rows.table.num_rows
    assert sent.rows.clients == (rows.clients[rows.table.slice(job.start, 1).column("client")[0].as_py()],)
    assert sent.rows.containers == ()
    assert (sent.job.start, sent.job.count) == (0, job.count)
    assert len(pickle.dumps(sent)) < 20_000
    assert shards.alone(*shards.alone(job, rows))[1].table.equals(sent.rows.table)


@pytest.mark.slow
def test_a_damaged_image_is_said_as_by_threads(ucmerced: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(ucmerced, tmp_path / "images"))
    victim = root / "UCMerced_LandUse" / "Images" / "forest" / "forest07.tif"
    victim.write_bytes(victim.read_bytes()[:50])
    wanted = planned(places=Places(given={"ucmerced": str(root)}), sample=False)
    for number, engine in enumerate((engines.chosen(), engines.chosen(jobs=2))):
        with pytest.raises(BadImageError, match="forest07.tif: "):
            pipeline.build(wanted, tmp_path / str(number), engine=engine)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images"]


@pytest.mark.slow
def test_a_worker_that_dies_leaves_a_build_to_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, reference = children(), contents(sampled(tmp_path / "reference").path)
    finished: list[str] = []
    result = Future.result

    def killing(self: Future, timeout: float | None = None) -> object:
        receipt = result(self, timeout)
        finished.append(receipt.path)
        if len(finished) == 4:
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)
        return receipt

    monkeypatch.setattr(Future, "result", killing)
    with pytest.raises(OutputError, match="a process writing shards died.*again to resume"):
        pipeline.build(planned(), tmp_path / "out", engine=engines.chosen(jobs=2))
    monkeypatch.undo()
    assert not (tmp_path / "out").exists()
    again = pipeline.build(planned(), tmp_path / "out", engine=engines.chosen(jobs=2))
    assert len(finished) >= 4
    assert again.written < 20
    assert contents(tmp_path / "out") == reference
    assert children() <= before | {int(p.name) for p in Path("/proc").glob("[0-9]*") if "resource_tracker" in _line(p)}


def _line(process: Path) -> str:
    try:
        return (process / "cmdline").read_text()
    except OSError:
        return ""


def test_engines_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, words in (
        (("dask",), "--engine dask: should be one of local, ray"),
        (("local", 0), "--jobs=0 should be at least 1"),
        (("local", None, "auto"), "--ray-address auto: works only with --engine ray"),
        (("local", None, ""), "--ray-address '': is empty"),
        (("ray", None, ""), "--ray-address '': is empty"),
    ):
        with pytest.raises(UsageError, match=words):
            engines.chosen(*arguments)
    monkeypatch.setattr(engines, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install .*\[ray\]"):
        engines.chosen("ray")
    assert isinstance(engines.chosen(jobs=1), engines.Threads)


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    wanted = ("build", "fed-rsic", "--sample", "--subset", "fed-ucmerced", "--set", "sample.per_class=2")
    told = answer(fedkit(*wanted, "--jobs", 2, "--out", tmp_path / "two", "--json"))
    one = answer(fedkit(*wanted, "--out", tmp_path / "one", "--json"))
    assert told["digest"] == one["digest"]
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    refused(fedkit(*wanted, "--out", "nowhere://x/y"), "--out nowhere://x/y", "no file system", codes=(2,))
    for passing in ("memory://x", "mock://x/y"):
        refused(fedkit(*wanted, "--out", passing), f"--out {passing}: goes with this process", codes=(2,))
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "cache") == ["one", "two"]
    assert str(ROOT)


# places that are no folders


@pytest.fixture
def memory() -> fsspec.AbstractFileSystem:
    found = fsspec.filesystem("memory")
    found.store.clear()
    found.pseudo_dirs[:] = [""]
    return found


def there(memory: fsspec.AbstractFileSystem, root: str) -> dict[str, bytes]:
    return {name.removeprefix(f"/{root}/"): memory.cat(name) for name in memory.find(f"/{root}")}


def test_what_is_copied_is_what_a_folder_has(memory: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    reference = contents(sampled(tmp_path / "reference").path)
    told = object_store.build(planned(), "memory://bucket/fed")
    assert told.uri == "memory://bucket/fed"
    assert there(memory, "bucket/fed") == reference
    assert not list((Path(os.environ["FEDKIT_CACHE"]) / "staged").iterdir())
    assert object_store.build(planned(), "memory://bucket/fed").written == 0
    memory.rm("/bucket/fed/clients.parquet")
    assert object_store.build(planned(), "memory://bucket/fed").written == 1
    assert there(memory, "bucket/fed") == reference


def test_an_interrupted_copy_is_no_dataset_and_goes_on(
    memory: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = contents(sampled(tmp_path / "reference").path)
    size, seen = object_store._size, []

    def full(filesystem: fsspec.AbstractFileSystem, path: str) -> int | None:
        seen.append(path)
        if len(seen) == 7:
            raise KeyboardInterrupt
        return size(filesystem, path)

    cache = os.environ["FEDKIT_CACHE"]
    monkeypatch.setattr(object_store, "_size", full)
    with pytest.raises(KeyboardInterrupt):
        object_store.build(planned(), "memory://bucket/fed")
    monkeypatch.undo()
    assert 0 < len(there(memory, "bucket/fed")) < len(reference)
    assert manifest.NAME not in there(memory, "bucket/fed")
    monkeypatch.setenv("FEDKIT_CACHE", cache)
    object_store.build(planned(), "memory://bucket/fed")
    assert there(memory, "bucket/fed") == reference


def test_another_dataset_is_replaced_only_when_asked(memory: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    object_store.build(planned(), "memory://bucket/fed")
    before = there(memory, "bucket/fed")
    with pytest.raises(OutputError, match="memory://bucket/fed: holds another dataset.*--overwrite"):
        object_store.build(planned("clients=3"), "memory://bucket/fed")
    assert there(memory, "bucket/fed") == before
    object_store.build(planned("clients=3"), "memory://bucket/fed", overwrite=True)
    reference = sampled(tmp_path / "reference", "clients=3").path
    assert there(memory, "bucket/fed") == contents(reference)


def test_what_is_no_dataset_is_left_alone(memory: fsspec.AbstractFileSystem) -> None:
    memory.pipe("/bucket/fed/thesis.tex", b"precious")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="holds no fedkit dataset"):
            object_store.build(planned(), "memory://bucket/fed", overwrite=overwrite)
    assert there(memory, "bucket/fed") == {"thesis.tex": b"precious"}
    memory.pipe("/bucket/two/manifest.json", json.dumps([1]).encode())
    with pytest.raises(OutputError, match="cannot be read"):
        object_store.build(planned(), "memory://bucket/two")
    with pytest.raises(UsageError, match="names no folder"):
        object_store.build(planned(), "memory://")


@pytest.mark.parametrize(
    "name", ["thesis.tex", "fed-ucmerced/train/mine.parquet", "deeper/manifest.json", "notes/README.md"]
)
def test_what_lies_beside_a_remote_dataset_is_left_alone(memory: fsspec.AbstractFileSystem, name: str) -> None:
    object_store.build(planned(), "memory://bucket/fed")
    memory.pipe(f"/bucket/fed/{name}", b"precious")
    before = there(memory, "bucket/fed")
    for sets in ((), ("clients=3",)):
        with pytest.raises(OutputError, match=f"{name} is not fedkit's and would be lost"):
            object_store.build(planned(*sets), "memory://bucket/fed", overwrite=True)
        assert there(memory, "bucket/fed") == before


def test_a_card_in_a_bucket_that_a_person_edited_is_never_lost(memory: fsspec.AbstractFileSystem) -> None:
    object_store.build(planned(), "memory://bucket/fed")
    memory.pipe("/bucket/fed/README.md", b"Written by hand for a week.")
    before = there(memory, "bucket/fed")
    for sets, overwrite in (((), False), ((), True), (("clients=3",), True)):
        with pytest.raises(OutputError, match=r"README.md was edited and would be lost; move it away"):
            object_store.build(planned(*sets), "memory://bucket/fed", overwrite=overwrite)
        assert there(memory, "bucket/fed") == before


def test_parquet_files_without_a_manifest_are_nobodys_copy(memory: fsspec.AbstractFileSystem) -> None:
    memory.pipe("/bucket/fed/train/mine.parquet", b"precious")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="is not empty and holds no fedkit dataset"):
            object_store.build(planned(), "memory://bucket/fed", overwrite=overwrite)
    assert there(memory, "bucket/fed") == {"train/mine.parquet": b"precious"}


@pytest.mark.parametrize("out", ["://x", "./a://x", ":/x", "s3:/bucket/fed"])
def test_what_is_neither_address_nor_folder(out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="--out .*: is not a URL"):
        object_store.build(planned(), out)
    assert os.listdir(tmp_path) == []


# secrets in an address


@pytest.mark.parametrize(
    ("address", "shown", "secrets"),
    [
        ("s3://KEY:Super/Secret@bucket/fed?region=x", "s3://KEY:***@bucket/fed?region=x", ["Super/Secret"]),
        ("s3://KEY:Super%2FSecret@bucket/x", "s3://KEY:***@bucket/x", ["Super%2FSecret", "Super/Secret"]),
        ("s3://KEY:Super%2fSecret@bucket/x", "s3://KEY:***@bucket/x", ["Super%2fSecret", "Super/Secret"]),
        ("ftp://user:Super@Secret?Odd@host/x", "ftp://user:***@host/x", ["Super@Secret?Odd"]),
        (
            "s3://b/x?scheme=http&secret_key=Super&Secret&session_token=Other&endpoint_override=h:1",
            "s3://b/x?scheme=http&secret_key=***&session_token=***&endpoint_override=h:1",
            ["Super&Secret", "Other"],
        ),
        ("s3://KEY:Super@b/x?token=SuperSecret", "s3://KEY:***@b/x?token=***", ["Super", "SuperSecret"]),
        ("s3://b/x?SECRET%5FKEY=Super", "s3://b/x?SECRET%5FKEY=***", ["Super"]),
        ("abfs://container@account/x", "abfs://container@account/x", []),
        ("s3://bucket/10:30@noon", "s3://bucket/10:30@noon", []),
        ("memory://bucket/fed", "memory://bucket/fed", []),
    ],
)
def test_secrets_of_an_address_are_masked(address: str, shown: str, secrets: list[str]) -> None:
    assert masked(address) == shown
    told = discreet(ValueError(f"no port {secrets} in {address}"), address=address)
    assert "no port" in told
    assert not [secret for secret in secrets if secret in told]


def test_secrets_are_in_no_answer(memory: fsspec.AbstractFileSystem, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither in what a finished build says and gives to machines, nor in its steps, nor when it fails."""
    heard: list[str] = []
    out = "memory://KEY:SuPerSecret@bucket/fed"
    done = object_store.build(planned(), out, listener=pipeline.BuildListener(step=heard.append))
    console.answer(tables.built(done), json=True)
    console.answer(tables.built(done), json=False)
    heard += capsys.readouterr()
    with pytest.raises(OutputError) as other:
        object_store.build(planned("clients=3"), out)
    memory.pipe("/KEY:SuPerSecret@bucket/two/manifest.json", b"[1]")
    with pytest.raises(OutputError) as damaged:
        object_store.build(planned(), out.replace("fed", "two"))
    said = " ".join([*heard, str(other.value), str(damaged.value), str(done)])
    assert "SuPerSecret" not in said
    assert said.count("memory://KEY:***@bucket/") > 5


@pytest.mark.slow
@pytest.mark.parametrize(
    "out",
    [
        "s3://AKIAKEY:SuPerSecret@buck/ds?endpoint_override=127.0.0.1:1&scheme=http",
        "s3://buck/ds?secret_key=SuPerSecret&access_key=KEY&endpoint_override=127.0.0.1:1",
        "nowhere://user:SuPerSecret@127.0.0.1/x",
    ],
)
def test_secrets_are_in_no_error_of_the_command(out: str) -> None:
    done = fedkit("build", "fed-rsic", "--sample", "--subset", "fed-ucmerced", "--clients", 2, "--out", out)
    assert done.returncode in {1, 2}
    assert masked(out) in done.stderr
    assert "SuPerSecret" not in done.stdout + done.stderr


@pytest.mark.slow
def test_a_bucket_of_google_without_credentials_ends_in_seconds(tmp_path: Path) -> None:
    """Its client would try for 15 minutes, which is far beyond the time that the helper gives a command."""
    nowhere = {"GCE_METADATA_HOST": "127.0.0.1:1", "HOME": str(tmp_path), "GOOGLE_APPLICATION_CREDENTIALS": ""}
    wanted = (
        "build",
        "fed-rsic",
        "--sample",
        "--subset",
        "fed-ucmerced",
        "--clients",
        2,
        "--set",
        "sample.per_class=4",
    )
    done = fedkit(*wanted, "--out", "gs://bucket/folder", cwd=tmp_path, **nowhere)
    refused(done, "gs://bucket/folder", "does not answer within 10 s", "log in", codes=(1,))
