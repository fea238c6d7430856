"""Folders of sources that are missing, incomplete, unreadable or odd: one line that names the place."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, refused, tiny_image
from small_builds import from_source, nothing, small_source

from fedrsic_data.build.verify import verify


def test_a_missing_source_folder_is_named(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build_it = ["build", "fed-rsic", "--subset", "fed-ucmerced", "--offline", "--out", out]
    refused(command(*build_it, "--sources", tmp_path / "none"), tmp_path / "none", "does not exist")
    refused(command(*build_it, "--source", f"ucmerced={tmp_path / 'none'}"), tmp_path / "none", "does not exist")
    refused(command(*build_it), "ucmerced", "--source ucmerced=PATH")
    nothing(out)


@pytest.mark.parametrize("inside", ["", "UCMerced_LandUse", "UCMerced_LandUse/Images", "UCMerced_LandUse/Images/beach"])
def test_an_empty_source_folder_is_named(command: Command, tmp_path: Path, inside: str) -> None:
    folder = tmp_path / "sources"
    (folder / inside).mkdir(parents=True)
    out = tmp_path / "out"
    done = command("build", "fed-rsic", "--subset", "fed-ucmerced", "--sources", folder, "--offline", "--out", out)
    refused(done, folder, "ucmerced", codes=(1,))
    nothing(out)


def test_a_class_folder_too_many_or_too_few(command: Command, tmp_path: Path) -> None:
    source, out = small_source(tmp_path / "src"), tmp_path / "out"
    images = source / "UCMerced_LandUse/Images"
    (images / "volcano").mkdir()
    refused(command(*from_source(source, out, "--allow-partial")), "volcano", images, codes=(1,))
    (images / "volcano").rmdir()
    (images / "Beach").mkdir()
    refused(command(*from_source(source, out, "--allow-partial")), "two folders", "beach", codes=(1,))
    (images / "Beach").rmdir()
    shutil.rmtree(images / "beach")
    refused(command(*from_source(source, out)), "beach", "--allow-partial", codes=(1,))
    nothing(out)


def test_two_files_for_one_image(command: Command, tmp_path: Path) -> None:
    source, out = small_source(tmp_path / "src"), tmp_path / "out"
    (source / "UCMerced_LandUse/Images/beach/beach00.png").write_bytes(tiny_image(5, ".png"))
    refused(command(*from_source(source, out, "--allow-partial")), "beach00.tif", "beach00.png", codes=(1,))
    nothing(out)


@pytest.mark.parametrize("link", ["beach", "UCMerced_LandUse/Images/volcano", "UCMerced_LandUse/Images/beach/x.tif"])
def test_links_that_lead_nowhere_or_in_circles(command: Command, tmp_path: Path, link: str) -> None:
    source, out = small_source(tmp_path / "src"), tmp_path / "out"
    place = source / link
    place.symlink_to(place.name)
    refused(command(*from_source(source, out, "--allow-partial")), place, "symbolic links", codes=(1,))
    nothing(out)
    place.unlink()
    place.symlink_to(place.parent)
    done = command(*from_source(source, out, "--allow-partial"))
    if place.suffix:  # a folder that is named like an image is none
        assert done.returncode == 0, done.stderr
        assert verify(out)[1] == []
    else:
        refused(done, source, "is not one of the 21 classes", codes=(1,))
        nothing(out)


@pytest.mark.skipif(os.name == "nt", reason="has no pipes with names")
def test_pipes_named_like_images_are_not_read(command: Command, tmp_path: Path) -> None:
    source, out = small_source(tmp_path / "src"), tmp_path / "out"
    os.mkfifo(source / "UCMerced_LandUse/Images/beach/pipe.tif")
    assert command(*from_source(source, out, "--allow-partial")).returncode == 0
    assert "beach/pipe.tif" in (out / "manifest.json").read_text()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("place", ["", "UCMerced_LandUse", "UCMerced_LandUse/Images", "UCMerced_LandUse/Images/beach"])
def test_folders_that_may_not_be_read(command: Command, tmp_path: Path, place: str) -> None:
    source, out = small_source(tmp_path / "src"), tmp_path / "out"
    (source / place).chmod(0)
    try:
        refused(command(*from_source(source, out, "--allow-partial")), source / place, codes=(1,))
    finally:
        (source / place).chmod(0o755)
    nothing(out)


def test_a_folder_that_cannot_be_read_is_named(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = small_source(tmp_path / "src"), tmp_path / "out"
    closed, scandir = str(source / "UCMerced_LandUse/Images"), os.scandir

    def refuse(path: Any = ".") -> Any:
        if str(path) == closed:
            raise PermissionError(errno.EACCES, "Permission denied", closed)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    done = command(*from_source(source, out, "--allow-partial"))
    monkeypatch.undo()
    refused(done, closed, codes=(1,))
    nothing(out)


def test_file_names_that_are_no_utf8(command: Command, tmp_path: Path) -> None:
    source, out = small_source(tmp_path / "src"), tmp_path / "out"
    odd = os.fsencode(source / "UCMerced_LandUse/Images/beach") + b"/beach\xff.tif"
    try:
        Path(os.fsdecode(odd)).write_bytes(tiny_image(9, ".tif"))
    except OSError:
        pytest.skip("this file system takes no such names")
    refused(command(*from_source(source, out, "--allow-partial")), "beach", codes=(1,))
    nothing(out)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ("ucmerced", "NAME=PATH"),
        ("=x", "NAME=PATH"),
        ("ucmerced=", "NAME=PATH"),
        ("ucmercd=x", "unknown source"),
        ("ucmerced=hf://", "hf://USER/DATASET"),
        ("ucmerced=hf://a/b/c/d", "hf://USER/DATASET"),
        ("ucmerced=~nobody-of-this-name/x", "nobody-of-this-name"),
        ("ucmerced=" + "n" * 300, "nnn"),
        ("ucmerced=/dev/null", "/dev/null"),
    ],
)
def test_source_options(command: Command, tmp_path: Path, given: str, word: str) -> None:
    out = tmp_path / "out"
    build_it = ["build", "fed-rsic", "--subset", "fed-ucmerced", "--offline", "--source", given, "--out", out]
    refused(command(*build_it), word)
    nothing(out)
