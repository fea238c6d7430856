"""Sources in every form people have them."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from conftest import mirrored, tiny_image, write_ucmerced

from fedrsic_data.errors import SourceError, UsageError
from fedrsic_data.raw.index import Index
from fedrsic_data.sources import SOURCES, locate, mirror, sample, vocabulary
from fedrsic_data.sources.base import HubMirror

UCM = SOURCES["ucmerced"]


def read(index: Index, *rows: int) -> list[bytes]:
    with tempfile.TemporaryDirectory() as scratch:
        index.container.prepare(Path(scratch))
    return index.container.read([index.table.column("key")[i].as_py() for i in rows])


def test_ids_sort_as_numbers_do(optimal31: Path) -> None:
    ids = SOURCES["optimal31"].index(optimal31).table.column("sample_id").to_pylist()
    assert ids[:2] == ["optimal31/airplane/airplane(01)", "optimal31/airplane/airplane(02)"]
    assert ids == sorted(ids)


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*.*"), reverse=True):  # an order of its own
            archive.write(file, file.relative_to(folder).as_posix())
    return path


def test_folder(ucmerced: Path) -> None:
    index = UCM.index(ucmerced)
    assert index.table.num_rows == 2100
    assert index.classes == vocabulary.native("ucmerced")
    assert index.missing == ()
    first = index.table.slice(0, 1).to_pylist()[0]
    assert first["sample_id"] == "ucmerced/agricultural/agricultural00"
    assert first["file"] == "agricultural00.tif"
    assert read(index, 0, 2099) == [tiny_image(0, ".tif"), tiny_image(20099, ".tif")]


def test_numbers_sort_as_numbers(optimal31: Path) -> None:
    index = SOURCES["optimal31"].index(optimal31)
    files = index.table.column("file").to_pylist()
    assert files[:3] == ["airplane(1).jpg", "airplane(2).jpg", "airplane(3).jpg"]
    assert files[9:11] == ["airplane(10).jpg", "airplane(11).jpg"]


def test_zip_and_parquet_hold_the_same_index(ucmerced: Path, tmp_path: Path) -> None:
    folder = UCM.index(ucmerced)
    for other in (UCM.index(zipped(ucmerced, tmp_path / "u.zip")), UCM.index(mirrored(ucmerced, tmp_path / "p"))):
        keep = ["sample_id", "labels", "domain", "file"]
        assert other.table.select(keep).equals(folder.table.select(keep))
        assert read(other, 7, 1500, 3) == read(folder, 7, 1500, 3)


def test_names_with_spaces_and_capitals_are_the_same_classes(ucmerced: Path, tmp_path: Path) -> None:
    names = [n.replace("_", " ").title() for n in vocabulary.native("ucmerced")]
    assert UCM.index(mirrored(ucmerced, tmp_path / "p", names)).table.num_rows == 2100


def test_suffixes_do_not_change_the_ids(ucmerced: Path, tmp_path: Path) -> None:
    other = UCM.index(write_ucmerced(tmp_path / "png", ".png"))
    assert other.table.column("sample_id").equals(UCM.index(ucmerced).table.column("sample_id"))


@pytest.fixture
def copy(ucmerced: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ucmerced, tmp_path / "copy")) / "UCMerced_LandUse" / "Images"


def test_a_class_too_many(copy: Path) -> None:
    (copy / "spaceport").mkdir()
    with pytest.raises(SourceError, match="'spaceport' is not one of the 21 classes"):
        UCM.index(copy, allow_partial=True)


def test_a_class_too_few(copy: Path) -> None:
    shutil.rmtree(copy / "beach")
    with pytest.raises(SourceError, match="1 of 21 classes are missing: beach.*--allow-partial"):
        UCM.index(copy)
    partial = UCM.index(copy, allow_partial=True)
    assert "beach" not in partial.classes
    assert partial.table.num_rows == 2000
    assert "beach" in partial.missing[0]


def test_an_image_too_few_or_too_many(copy: Path) -> None:
    (copy / "beach" / "beach00.tif").unlink()
    with pytest.raises(SourceError, match="beach has 99 of 100"):
        UCM.index(copy)
    for i in range(2):
        (copy / "beach" / f"more{i}.tif").write_bytes(tiny_image(i, ".tif"))
    with pytest.raises(SourceError, match="has 101 images"):
        UCM.index(copy, allow_partial=True)


def test_two_files_for_one_image(copy: Path) -> None:
    (copy / "beach" / "beach01.tif").rename(copy / "beach" / "beach00.jpg")
    with pytest.raises(SourceError, match="two files for one image"):
        UCM.index(copy)


def test_other_files_are_counted_and_litter_is_not(copy: Path) -> None:
    (copy / "beach" / "notes.txt").write_text("hello")
    (copy / "beach" / "Thumbs.db").write_text("")
    (copy / "beach" / ".DS_Store").write_text("")
    left = UCM.index(copy).left_out
    assert [(item.count, item.examples) for item in left] == [(1, ("beach/notes.txt",))]


@pytest.mark.parametrize("what", ["nothing", "empty folder", "text", "bad parquet", "bad zip"])
def test_what_is_no_source(what: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if what == "empty folder":
        path.mkdir()
    elif what == "text":
        path.write_text("hello")
    elif what == "bad parquet":
        path = tmp_path / "x.parquet"
        path.write_bytes(b"PAR1 no")
    elif what == "bad zip":
        path = tmp_path / "x.zip"
        path.write_bytes(b"PK no")
    with pytest.raises(SourceError, match=str(path)):
        UCM.index(path)


@pytest.mark.skipif(os.name == "nt", reason="has no pipes with names")
@pytest.mark.parametrize("name", ["UCMerced_LandUse.zip", "ucmerced.parquet", "ucmerced"])
def test_pipes_are_never_opened(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    assert locate.find(UCM, locate.Places(folder=tmp_path)) is None
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(SourceError, match=str(path)):
            UCM.index(path)


def test_what_the_system_refuses_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loop").symlink_to("loop")
    long = tmp_path / ("n" * 300)
    with pytest.raises(SourceError, match="loop: cannot be read"):
        UCM.index(tmp_path)
    with pytest.raises(SourceError, match="nnn: cannot be read"):
        UCM.index(long)
    with pytest.raises(SourceError, match="nnn: cannot be read"):
        locate.find(UCM, locate.Places(folder=long))

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(SourceError, match=f"{tmp_path}: cannot be read .Permission denied"):
        locate.find(UCM, locate.Places(folder=tmp_path))


@pytest.mark.skipif(os.name == "nt", reason="has no such names")
@pytest.mark.parametrize("name", [b"beach\xff/a.tif", b"beach/a\xff.txt"])
def test_names_that_are_no_utf8(name: bytes, tmp_path: Path) -> None:
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    try:
        file.parent.mkdir()
        file.write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes no such names")
    with pytest.raises(SourceError, match=r"'beach.*udcff.*' is not UTF-8; rename"):
        UCM.index(tmp_path, allow_partial=True)


def test_parquet_damaged_after_the_index_was_read(ucmerced: Path, tmp_path: Path) -> None:
    folder = mirrored(ucmerced, tmp_path / "p")
    index = UCM.index(folder)
    path = folder / "train-1.parquet"
    column = pq.read_metadata(path).row_group(0).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(data)
    with pytest.raises(SourceError, match="train-1.parquet: cannot be read"):
        index.container.prepare(tmp_path)


def test_parquet_of_other_columns_and_classes(ucmerced: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "x.parquet")
    with pytest.raises(SourceError, match="no image column"):
        UCM.index(tmp_path / "x.parquet")
    names = [*vocabulary.native("ucmerced")[:-1], "spaceport"]
    with pytest.raises(SourceError, match="'spaceport' is not one of"):
        UCM.index(mirrored(ucmerced, tmp_path / "p", names))


def test_search_by_name(ucmerced: Path, optimal31: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert locate.find(UCM, locate.Places(folder=ucmerced)) == ucmerced / "UCMerced_LandUse"
    assert locate.find(UCM, locate.Places(folder=optimal31)) is None
    assert locate.find(UCM, locate.Places(given={"ucmerced": str(ucmerced)})) == ucmerced
    monkeypatch.setenv("FEDKIT_SOURCES", f"{optimal31}:{ucmerced}")
    assert locate.find(UCM, locate.Places()) == ucmerced / "UCMerced_LandUse"
    zipped(ucmerced, tmp_path / "UCMerced_LandUse.zip")
    assert locate.find(UCM, locate.Places(folder=tmp_path)) == tmp_path / "UCMerced_LandUse.zip"


def test_search_that_finds_two_or_none(tmp_path: Path) -> None:
    for name in ("a/UCMerced_LandUse", "b/UCMerced_LandUse"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(SourceError, match="say which with --source ucmerced=PATH"):
        locate.find(UCM, locate.Places(folder=tmp_path))
    with pytest.raises(SourceError, match="does not exist"):
        locate.find(UCM, locate.Places(folder=tmp_path / "no"))
    with pytest.raises(SourceError, match="does not exist"):
        locate.find(UCM, locate.Places(given={"ucmerced": str(tmp_path / "no")}))
    with pytest.raises(UsageError, match="unknown source"):
        locate.check_names({"ucmreced": "x"}, SOURCES)


def test_offline_says_what_to_do() -> None:
    for source in SOURCES.values():
        with pytest.raises(SourceError, match=f"{source.name}.*--source {source.name}=PATH"):
            locate.locate(source, locate.Places(offline=True))


def test_hub_mirror_is_pinned_at_first_use(ucmerced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(mirror, "_resolve", lambda repo, revision: calls.append(repo) or "c0ffee")
    monkeypatch.setattr(mirror, "_download", lambda repo, commit, folder: mirrored(ucmerced, folder))
    cache = tmp_path / "cache"
    cache.mkdir()
    first = mirror.mirror(HubMirror("u/d"), cache)
    assert first == mirror.mirror(HubMirror("u/d"), cache, offline=True)
    assert calls == ["u/d"]
    assert json.loads((cache / "revisions.json").read_text()) == {"u/d": "c0ffee"}
    assert UCM.index(first).table.num_rows == 2100


def test_sources_say_what_people_must_know() -> None:
    for name, source in SOURCES.items():
        assert source.name == name
        facts = source.facts
        assert all((facts.title, facts.homepage, facts.licence, facts.citation, facts.layout))
        by_hand = ("mlrsnet", "domainnet10", "office-caltech10")  # RAR archives, and sets without a copy of their own
        assert bool(facts.downloads or facts.hub) == (name not in by_hand)
        published = source.name != "flair"  # of FLAIR's files no checksum is
        assert all(d.url.startswith("http") for d in facts.downloads), name
        assert all(bool((d.sha256 or d.md5) and d.size) == published for d in facts.downloads)


def test_sample_says_that_it_is_one() -> None:
    index = sample.index(SOURCES["resisc45"], sample.SampleSettings(per_class=3, size=32))
    assert len(index.classes) >= 16
    assert all(i.startswith("sample-") for i in index.table.column("sample_id").to_pylist())
    assert pc.unique(index.table.column("domain")).to_pylist() == ["sample-resisc45"]
    assert index.table.num_rows == 3 * len(index.classes)


def test_vocabulary() -> None:
    assert len(vocabulary.unified()) == 47
    assert [len(vocabulary.native(s)) for s in ("ucmerced", "resisc45", "optimal31")] == [21, 45, 31]
    assert set(vocabulary.native("optimal31")) < set(vocabulary.native("resisc45"))
    assert len(vocabulary.shared("ucmerced", "resisc45", "optimal31")) == 15
    assert vocabulary.to_unified("ucmerced")["storagetanks"] == "storage_tank"
    assert vocabulary.to_unified("elsewhere") == {}
    # the readable names sort like the native ones, so indices agree with tools that use native names
    for source in ("ucmerced", "resisc45", "optimal31"):
        mapped = [vocabulary.to_unified(source)[n] for n in vocabulary.native(source)]
        assert mapped == sorted(mapped)
