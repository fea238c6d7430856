"""Places that cannot hold a dataset: occupied, linked, full, closed; one line, and files of a person stay."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT, Command, Done, contents, environment, refused, sampled
from small_builds import SAMPLE, from_source, in_process, nothing, output, small_source

from fedrsic_data.build import shards
from fedrsic_data.build.verify import verify


@pytest.mark.parametrize("kind", ["file", "full", "foreign", "incomplete-file", "incomplete-foreign", "parent-file"])
def test_something_in_the_way(command: Command, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "in" / "out"
    aside = out.with_name("out.incomplete")
    out.parent.mkdir()
    if kind == "file":
        out.write_text("mine")
    elif kind == "foreign":
        out.mkdir()
        (out / "mine").write_text("mine")
    elif kind == "incomplete-file":
        aside.write_text("mine")
    elif kind == "incomplete-foreign":
        aside.mkdir()
        (aside / "mine").write_text("mine")
    elif kind == "parent-file":
        (tmp_path / "in" / "f").write_text("mine")
        out = tmp_path / "in" / "f" / "out"
    else:
        out = Path("/dev/full")
    before = contents(tmp_path / "in")
    refused(output(command, out), out, "--out" if "incomplete" not in kind else "", codes=(1,))
    refused(command(*SAMPLE, "--overwrite", "--out", out), out, codes=(1,))
    assert {k: v for k, v in contents(tmp_path / "in").items() if not k.endswith(".lock")} == before


@pytest.mark.parametrize("out", ["/", "/proc/fedkit", "/dev/null/out", "/dev/full"])
def test_places_that_cannot_be_written(command: Command, out: str) -> None:
    if not Path(out).parent.exists():
        pytest.skip("not on this system")
    refused(output(command, out), out.rstrip("/"), codes=(1,))


def test_an_output_without_a_name(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "empty"
    place.mkdir()
    monkeypatch.chdir(place)
    stands = place.stat().st_ino
    assert output(command, "").returncode == 0
    assert place.stat().st_ino == stands, "the folder a person stands in was taken away"
    assert os.listdir(place) == ["data"], "it is built where a build without --out goes"
    assert os.listdir(place / "data") == ["fed-rsic-sample"]


def test_the_folder_one_stands_in_stays(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "empty"
    place.mkdir()
    monkeypatch.chdir(place)
    refused(output(command, "."), "--out .:", codes=(1,))
    assert os.listdir(tmp_path) == ["empty"]
    assert os.listdir(place) == []


@pytest.mark.parametrize("kind", ["folder", "full", "nowhere", "circle", "in-circle", "file"])
def test_links_as_output(command: Command, tmp_path: Path, kind: str) -> None:
    place, target = tmp_path / "in", tmp_path / "target"
    place.mkdir()
    out = place / "out"
    if kind in ("folder", "full"):
        target.mkdir()
    if kind in ("full", "file"):
        (target / "mine" if kind == "full" else target).write_text("mine")
    out.symlink_to(out if "circle" in kind else target)
    done = output(command, out / "deeper" if kind == "in-circle" else out)
    if kind == "folder":
        assert done.returncode == 0, done.stderr
        assert verify(out)[1] == []
    else:
        refused(done, out, codes=(1,))
    assert out.is_symlink()
    assert os.listdir(place) == ["out"]


@pytest.mark.parametrize("name", ["n" * 300, "n" * 250, "a/" * 2000 + "b"], ids=["300", "250", "deep"])
def test_names_that_are_too_long(command: Command, tmp_path: Path, name: str) -> None:
    done = output(command, tmp_path / "in" / name)
    assert done.returncode == 1
    assert "unexpected" not in done.stderr, done.stderr[-99:]
    assert "this is a bug" not in done.stderr
    assert done.stderr.count("error: ") == 1
    assert not list(tmp_path.glob("in/n*"))


@pytest.mark.parametrize(
    "name", ["Grüße 世界", "two words", "a'b\"c", "[red]x[/red]", "x[/y]", "a\nb", "-x", "trailing/"]
)
def test_odd_names_work(command: Command, tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    assert command(*SAMPLE, f"--out={tmp_path}/{name}").returncode == 0
    assert verify(out)[1] == []
    done = command("verify", out)
    assert done.returncode == 0
    assert name.rstrip("/").replace("\n", "\\n") in done.stdout.replace("\n", "")
    assert sorted(os.listdir(out.parent)) == [out.name]


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    out = os.fsdecode(os.fsencode(tmp_path) + b"/x\xff")
    try:
        Path(out).mkdir()
    except OSError:
        pytest.skip("this file system takes no such names")
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *SAMPLE, "--out", out],
        capture_output=True,
        env=environment(),
        check=False,
    )
    done = Done(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())
    refused(done, "--out", "not a valid name", codes=(1,))
    assert not Path(out + ".incomplete").exists()
    assert os.listdir(out) == []


def test_an_output_inside_its_own_source(command: Command, tmp_path: Path) -> None:
    source = small_source(tmp_path / "src")
    before = contents(source)
    for out in (source / "UCMerced_LandUse/Images/out", source / "UCMerced_LandUse/Images/beach/out"):
        refused(command(*from_source(source, out, "--allow-partial")), out, "inside the source", codes=(1,))
        nothing(out)
    assert contents(source) == before


@pytest.mark.skipif(sys.platform != "linux", reason="file sizes are limited otherwise elsewhere")
def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    out = tmp_path / "out"
    least = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # noqa: E731
    refused(in_process(*SAMPLE, "--out", out, preexec_fn=least), out, codes=(1,))
    assert not out.exists()
    assert in_process(*SAMPLE, "--out", out).returncode == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_a_full_disk_is_one_line_and_resumed(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, room = tmp_path / "out", [30_000]
    write = shards.HashingFile.write

    def full(self: shards.HashingFile, data: bytes) -> int:
        room[0] -= len(data)
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(shards.HashingFile, "write", full)
    refused(output(command, out), out, "disk is full", codes=(1,))
    assert not out.exists()
    room[0] = 1 << 40
    assert output(command, out).returncode == 0
    assert contents(out) == contents(sampled(tmp_path / "ref", "sample.per_class=2", "clients=2").path)
    assert not out.with_name("out.incomplete").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system of its own, where that is allowed."""
    places = []

    def mount(options: str) -> Path:
        place = tmp_path / f"disk{len(places)}"
        place.mkdir()
        mounting = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if shutil.which("mount") is None or subprocess.run(mounting, capture_output=True, check=False).returncode:
            pytest.skip("nothing can be mounted here")
        places.append(place)
        return place

    yield mount
    for place in places:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("size", ["8k", "60k", "120k"])
def test_a_disk_that_is_really_full(
    command: Command, tmp_path: Path, small_disk: Callable[[str], Path], size: str
) -> None:
    disk = small_disk(f"size={size}")
    out = disk / "out"
    refused(output(command, out), out, "disk is full", codes=(1,))
    assert not out.exists()
    subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
    assert output(command, out).returncode == 0
    assert os.listdir(disk) == ["out"]
    assert contents(out) == contents(sampled(tmp_path / "ref", "sample.per_class=2", "clients=2").path)


def test_a_disk_that_is_read_only(command: Command, small_disk: Callable[[str], Path]) -> None:
    out = small_disk("ro") / "out"
    refused(output(command, out), out, "--out", codes=(1,))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(command: Command, tmp_path: Path) -> None:
    place = tmp_path / "closed"
    place.mkdir(mode=0o555)
    refused(output(command, place / "out"), place, "--out", codes=(1,))
