"""Multi-label remote sensing: tables of labels, the images they are for, and everything that can be wrong with both."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Command, answer, fedkit, labels_and_digests, put, refused, tiny_image

import fedrsic_data
from fedrsic_data import recipes
from fedrsic_data.build.verify import verify
from fedrsic_data.dataset import schema
from fedrsic_data.errors import SourceError
from fedrsic_data.raw.index import Index
from fedrsic_data.raw.remote import RemoteFile
from fedrsic_data.sources import SOURCES, configured, label_matrix, locate, mlrsnet, ucmerced_multilabel, vocabulary
from fedrsic_data.sources.testing import check_source
from fedrsic_data.sources.ucmerced_multilabel import LABELS

UCM, AID, MLRS = "fed-ucmerced-multilabel", "fed-aid-multilabel", "fed-mlrsnet"
SCENES = vocabulary.native("ucmerced")


def sets(index: Index) -> dict[str, set[str]]:
    """The labels of each image by its sample id."""
    ids, labels = (index.table.column(name).to_pylist() for name in ("sample_id", "labels"))
    assert all(mine == sorted(mine) for mine in labels)
    return {one: {index.classes[i] for i in mine} for one, mine in zip(ids, labels, strict=True)}


# UC Merced


def its_labels(scene: int, number: int) -> set[str]:
    """One to three labels that tell the images of a scene class, and the classes, apart."""
    return {LABELS[scene % 17], LABELS[(scene + number) % 17], LABELS[(scene * 5 + number // 7) % 17]}


def table(labels: Sequence[str] = LABELS) -> str:
    """LandUse_Multilabeled.txt: tabs, CRLF, a row for each of the 2,100 images."""
    lines = ["\t".join(["IMAGE\\LABEL", *labels])]
    for scene, name in enumerate(SCENES):
        for number in range(100):
            mine = its_labels(scene, number)
            lines.append("\t".join([f"{name}{number:02d}", *(str(int(label in mine)) for label in labels)]))
    return "".join(f"{line}\r\n" for line in lines)


def zipped(folder: Path, text: str) -> Path:
    """multilabels.zip with the table and the files beside it."""
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "multilabels.zip", "w") as archive:
        archive.writestr("multilabels/LandUse_multilabels.mat", b"MATLAB")
        archive.writestr("multilabels/LandUse_Multilabeled.txt", text)
        archive.writestr("multilabels/LandUse_Multilabeled.xlsx", b"PK")
    return folder / "multilabels.zip"


@pytest.fixture(autouse=True)
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published table is that of these tests."""
    made = label_matrix.read(table().encode(), "here", "\t", LABELS, "again")
    monkeypatch.setattr(ucmerced_multilabel, "_PUBLISHED", ucmerced_multilabel._digest(made))


@pytest.fixture
def here(ucmerced: Path, tmp_path: Path) -> Path:
    """A folder of sources: the images under their usual name, the labels in their archive."""
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "ucmerced").symlink_to(ucmerced / "UCMerced_LandUse")
    zipped(tmp_path / "sources" / "labels", table())
    return tmp_path / "sources"


def test_labels_of_a_table_join_the_images_of_another_source(here: Path, tmp_path: Path, command: Command) -> None:
    done = answer(
        command("build", "fed-rsic-multilabel", "--sources", here, "--subset", UCM, "--json", "--out", tmp_path / "a")
    )
    assert sum(done["subsets"][UCM]["rows"].values()) == 2100  # type: ignore[index]
    subset = fedrsic_data.open(tmp_path / "a")[UCM]
    assert subset.classes == LABELS
    found = {}
    for split in subset.splits:
        for row in subset.read(split).to_pylist():
            assert row["domain"] == "ucmerced-multilabel"
            found[row["sample_id"]] = {LABELS[i] for i in row["labels"]}, row["image"]["bytes"]
    assert found == {
        f"ucmerced-multilabel/{name}/{name}{number:02d}": (
            its_labels(scene, number),
            tiny_image(scene * 1000 + number, ".tif"),
        )
        for scene, name in enumerate(SCENES)
        for number in range(100)
    }
    assert verify(tmp_path / "a")[1] == []


def places(ucmerced: Path, root: Path, form: str) -> list[object]:
    """The options for labels and images in one of the forms in which people have them."""
    if form == "zip":
        return ["--source", f"ucmerced-multilabel={zipped(root, table())}", "--source", f"ucmerced={ucmerced}"]
    if form == "unpacked":
        (root / "multilabels").mkdir(parents=True)
        (root / "multilabels" / "LandUse_Multilabeled.txt").write_text(table(LABELS[::-1]), newline="")
        return ["--source", f"ucmerced-multilabel={root / 'multilabels'}", "--source", f"ucmerced={ucmerced}"]
    zipped(root, table())
    shutil.copytree(ucmerced / "UCMerced_LandUse" / "Images", root / "pictures")
    return ["--source", f"ucmerced-multilabel={root}", "--offline"]


@pytest.mark.parametrize("form", ["zip", "unpacked", "together"])
def test_every_form_of_a_copy_gives_the_same_dataset(
    form: str, here: Path, ucmerced: Path, tmp_path: Path, command: Command
) -> None:
    build = ("build", "fed-rsic-multilabel", "--subset", UCM, "--json", "--out")
    first = answer(command(*build, tmp_path / "a", "--sources", here))
    again = answer(command(*build, tmp_path / "b", *places(ucmerced, tmp_path / "copy", form)))
    assert again["digest"] == first["digest"]


def test_scenes_as_domains(here: Path, tmp_path: Path, command: Command) -> None:
    options = ("--set", "sources.ucmerced-multilabel.domains=scene", "--partition", "domain", "--clients", 7)
    command("build", "fed-rsic-multilabel", "--subset", UCM, "--sources", here, "--out", tmp_path / "a", *options)
    owners = fedrsic_data.open(tmp_path / "a")[UCM].plan.to_pylist()
    assert all(row["domain"] == row["sample_id"].split("/")[1] for row in owners)
    assert {row["domain"] for row in owners} == set(SCENES)
    of_client = {(row["client_id"], row["domain"]) for row in owners}
    classes = Counter(client for client, _ in of_client)
    assert [*classes.values()] == [3] * 7, "each client has three scene classes, and shares none"


def test_images_are_asked_for_by_the_name_of_their_source(tmp_path: Path, command: Command) -> None:
    place = zipped(tmp_path / "labels", table())
    done = command(
        "build", "fed-rsic-multilabel", "--subset", UCM, "--source", f"ucmerced-multilabel={place}", "--offline"
    )
    refused(done, "ucmerced: not found on this machine", "--source ucmerced=PATH", codes=(1,))


def test_labels_and_images_are_downloaded_once_each(
    ucmerced: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []

    def fetch(mirrors: Sequence[RemoteFile], folder: Path, **_: object) -> Path:
        path = folder / mirrors[0].filename
        if not path.exists():
            fetched.append(path)
            folder.mkdir(parents=True)
            if path.name == "multilabels.zip":
                return zipped(folder, table())
            with zipfile.ZipFile(path, "w") as archive:
                for file in sorted(ucmerced.rglob("*.tif")):
                    archive.write(file, file.relative_to(ucmerced))
        return path

    monkeypatch.setattr(locate, "fetch", fetch)
    answer(command("build", "fed-rsic-multilabel", "--subset", UCM, "--json", "--out", tmp_path / "a"))
    answer(command("build", "fed-rsic", "--subset", "fed-ucmerced", "--json", "--out", tmp_path / "b"))
    names = ["ucmerced-multilabel/multilabels.zip", "ucmerced/UCMerced_LandUse.zip"]
    assert [f"{path.parent.name}/{path.name}" for path in fetched] == names
    shutil.copytree(ucmerced, tmp_path / "sources")
    options = ("--sources", tmp_path / "sources", "--json", "--out")
    answer(command("build", "fed-rsic-multilabel", "--subset", UCM, *options, tmp_path / "c"))
    inside = tmp_path / "sources/UCMerced_LandUse/a"
    done = command("build", "fed-rsic-multilabel", "--subset", UCM, *options, inside)
    refused(done, inside, "lies inside the source", codes=(1, 2))
    (tmp_path / "none").mkdir()
    done = command("build", "fed-rsic-multilabel", "--subset", UCM, "--sources", tmp_path / "none")
    refused(done, "holds none of ucmerced-multilabel", "the images of ucmerced", codes=(1,))


def row_of(image: str) -> str:
    """The line of an image in the table."""
    return next(line for line in table().splitlines() if line.startswith(f"{image}\t"))


def moved(text: str) -> str:
    """The table with the labels of each row in the next one."""
    header, *rows = text.split("\r\n")[:-1]
    images, labels = zip(*(row.split("\t", 1) for row in rows), strict=True)
    return "\r\n".join([header, *map("\t".join, zip(images, [labels[-1], *labels[:-1]], strict=True)), ""])


BAD = {
    "a label that is none": (lambda text: text.replace("\tsea\t", "\tseas\t"), ["line 1", "'seas'", "17 labels"]),
    "another header": (
        lambda text: text.replace("\t", ","),
        ["line 1", "no column for airplane, bare-soil, buildings"],
    ),
    "no column for a label": (
        lambda text: "\r\n".join(line.rpartition("\t")[0] for line in text.split("\r\n")),
        ["line 1", "no column for water"],
    ),
    "two columns of a label": (lambda text: text.replace("\tsea\t", "\tsand\t", 1), ["line 1", "two columns 'sand'"]),
    "a value that is not 0 or 1": (
        lambda text: text.replace(row_of("beach07"), row_of("beach07").replace("1", "2", 1)),
        ["line 309", "'2' is neither 0 nor 1"],
    ),
    "a fraction": (
        lambda text: text.replace(row_of("beach07"), "beach07\t1.0" + "\t0" * 16),
        ["line 309, airplane", "'1.0' is neither 0 nor 1"],
    ),
    "a short row": (lambda text: text.replace(row_of("beach07"), "beach07\t1"), ["line 309 has 2 columns", "18"]),
    "a row twice": (
        lambda text: text.replace(row_of("beach07"), row_of("beach06")),
        ["has 'beach06' in two rows"],
    ),
    "an image that is none": (
        lambda text: text.replace("beach07\t", "shore07\t"),
        ["'shore07' is not an image of UC Merced"],
    ),
    "bytes that are no text": (lambda text: text.replace("beach07", "beach\udcff"), ["is not UTF-8 text"]),
    "nothing": (lambda _: "", ["no column for airplane"]),
    "two names of labels swapped": (
        lambda text: (
            text.replace("airplane", "?")
            .replace("dock", "airplane", 1)
            .replace("?", "dock", 1)
            .replace("?", "airplane")
        ),
        ["not those of the published table"],
    ),
    "labels of the image before": (moved, ["not those of the published table"]),
    "a label without a name": (lambda text: text.replace("\tsea\t", "\t\t"), ["line 1", "'' is not one of the 17"]),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_table_is_one_line(what: str, here: Path, command: Command) -> None:
    change, words = BAD[what]
    folder = here / "labels"
    (folder / "multilabels.zip").unlink()
    (folder / "LandUse_Multilabeled.txt").write_bytes(change(table()).encode("utf-8", "surrogateescape"))
    options = ("--source", f"ucmerced-multilabel={folder}", "--sources", here, "--allow-partial")
    done = command("build", "fed-rsic-multilabel", "--subset", UCM, *options)
    refused(done, folder / "LandUse_Multilabeled.txt", *words, "from multilabels.zip again", codes=(1,))


def test_no_table_is_one_line(here: Path, command: Command) -> None:
    (here / "labels" / "multilabels.zip").unlink()
    options = ("--source", f"ucmerced-multilabel={here / 'labels'}", "--sources", here)
    done = command("build", "fed-rsic-multilabel", "--subset", UCM, *options)
    refused(done, here / "labels", "has no LandUse_Multilabeled.txt", codes=(1,))


def test_rows_without_images_and_images_without_rows(ucmerced: Path, tmp_path: Path, command: Command) -> None:
    images = Path(shutil.copytree(ucmerced / "UCMerced_LandUse", tmp_path / "ucmerced"))
    (images / "Images/river/river05.tif").unlink()
    (images / "Images/beach/beach07.tif").rename(images / "Images/forest/beach07.tif")
    zipped(tmp_path / "labels", table())
    options = (
        "build",
        "fed-rsic-multilabel",
        "--subset",
        UCM,
        "--sources",
        tmp_path,
        "--out",
        tmp_path / "a",
        "--json",
    )
    lost = "2 of 2,100 images that have labels are not in"
    more = "1 images in", "have no row of labels: forest/beach07.tif"
    refused(command(*options), lost, "beach/beach07, river/river05", *more, "--allow-partial", codes=(1,))
    dry = command(*options[:-1], "--allow-partial", "--dry-run").stdout
    assert f"  incomplete copy of UC Merced multi-label: {lost}" in dry
    done = answer(command(*options, "--allow-partial"))
    assert sum(done["subsets"][UCM]["rows"].values()) == 2098  # type: ignore[index]
    entry = fedrsic_data.open(tmp_path / "a").manifest.sources["ucmerced-multilabel"]
    assert entry.missing[0].startswith(lost)
    assert json.dumps([left.examples for left in fedrsic_data.open(tmp_path / "a").manifest.subsets[UCM].left_out]) == (
        '[["forest/beach07.tif"]]'
    )
    shutil.copy(images / "Images/river/river06.tif", images / "Images/river/river06.jpg")
    refused(command(*options, "--allow-partial", "--overwrite"), "river/river06 is there with two endings", codes=(1,))


@pytest.mark.realdata
def test_the_real_labels_are_those_of_a_plain_reader(real_data: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(real_data / "ucmerced-multilabel" / "multilabels.zip") as archive:
        text = archive.read("multilabels/LandUse_Multilabeled.txt").decode()
    expected = {}
    for row in csv.DictReader(io.StringIO(text), delimiter="\t"):
        image = row.pop("IMAGE\\LABEL")
        file = real_data / "ucmerced/UCMerced_LandUse/Images" / image[:-2] / f"{image}.jpg"
        labels = {name for name, value in row.items() if value == "1"}
        expected[f"ucmerced-multilabel/{image[:-2]}/{image}"] = labels, hashlib.sha256(file.read_bytes()).hexdigest()
    arguments = ("build", "fed-rsic-multilabel", "--subset", UCM, "--sources", real_data, "--json")
    answer(fedkit(*arguments, cwd=tmp_path))
    subset = fedrsic_data.open(tmp_path / "data/fed-rsic-multilabel")[UCM]
    rows = [row for split in subset.splits for row in subset.read(split).to_pylist()]
    assert labels_and_digests(subset, rows) == expected
    counts = 100, 718, 691, 886, 115, 105, 100, 103, 975, 102, 1300, 294, 100, 102, 100, 1009, 203
    found = Counter(subset.classes[i] for row in rows for i in row["labels"])
    assert list(map(found.__getitem__, text.splitlines()[0].split("\t")[1:])) == list(counts)
    assert Counter(len(row["labels"]) for row in rows) == {1: 224, 2: 426, 3: 512, 4: 442, 5: 365, 6: 119, 7: 12}
    assert verify(tmp_path / "data/fed-rsic-multilabel")[1] == []


# MLRSNet

PER_CATEGORY = 4
ORDERED = ("desert", "golf_course", "intersection", "island", "parkway", "railway_station", "storage_tank", "wetland")


def of_category(category: str, number: int) -> set[str]:
    """The label of the category on all but one image, and some others; the first eroded farmland has none."""
    if (category, number) == ("eroded_farmland", 0):
        return set()
    place = list(mlrsnet.CATEGORIES).index(category)
    return {mlrsnet.CATEGORIES[category], mlrsnet.LABELS[(place + number) % 60], mlrsnet.LABELS[(7 * place + 3) % 60]}


def write_labels(folder: Path, broken: Mapping[str, Any] | None = None) -> None:
    """A table per category; eight of them have an order of columns of their own, and one a column without a name."""
    folder.mkdir(parents=True, exist_ok=True)
    for category in mlrsnet.CATEGORIES:
        turn = ORDERED.index(category) + 1 if category in ORDERED else 0
        labels = [*mlrsnet.LABELS[turn:], *mlrsnet.LABELS[:turn]]
        header = ["  " if (category, name) == ("storage_tank", "snowberg") else name for name in labels]
        lines = [",".join(["image", *header])]
        for number in range(PER_CATEGORY):
            mine = of_category(category, number)
            lines.append(
                ",".join([f"{category}_{number * 3 + 1:05d}.jpg", *(str(int(name in mine)) for name in labels)])
            )
        (folder / f"{category}.csv").write_text("".join(f"{line}\n" for line in lines))
    for category, change in (broken or {}).items():
        path = folder / f"{category}.csv"
        path.write_text(change(path.read_text()))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images/<category>/<category>_NNNNN.jpg, with gaps in the numbers; not to be changed."""
    root = tmp_path_factory.mktemp("mlrsnet")
    names = [f"{c}/{c}_{number * 3 + 1:05d}.jpg" for c in mlrsnet.CATEGORIES for number in range(PER_CATEGORY)]
    return put(root / "Images", *names)


@pytest.fixture
def mlrs(pictures: Path, tmp_path: Path) -> Path:
    """A small MLRSNet with right labels."""
    root = tmp_path / "MLRSNet"
    root.mkdir()
    shutil.copytree(pictures, root / "Images")
    write_labels(root / "labels")
    return root


def read_mlrs(root: Path, *, partial: bool = True, **settings: object) -> Index:
    return configured("mlrsnet", settings, "test").index(root, allow_partial=partial)


def test_each_table_of_mlrsnet_is_read_by_its_own_header(mlrs: Path) -> None:
    index = read_mlrs(mlrs)
    expected = {
        f"mlrsnet/{category}/{category}_{number * 3 + 1:05d}": of_category(category, number)
        for category in mlrsnet.CATEGORIES
        for number in range(PER_CATEGORY)
    }
    bare = "mlrsnet/eroded_farmland/eroded_farmland_00001"
    assert sets(index) == {name: mine for name, mine in expected.items() if name != bare}
    assert sets(read_mlrs(mlrs, unlabelled="keep")) == expected
    assert [(left.reason, left.examples) for left in index.left_out] == [("without labels", (bare,))]
    assert index.missing == ("labels/ has 184 rows, the published one 109,161",)
    assert index.multi_label
    assert index.classes == mlrsnet.LABELS
    assert (len(mlrsnet.LABELS), len(mlrsnet.CATEGORIES)) == (60, 46)
    key = index.table.column("key")[5].as_py()
    assert index.container.read([key]) == [(mlrs / "Images" / key).read_bytes()]


def test_mlrsnet_by_scene_and_with_a_folder_of_another_spelling(mlrs: Path) -> None:
    (mlrs / "labels").rename(mlrs / "Labels")
    table = read_mlrs(mlrs, domains="scene").table
    assert [f"{row['domain']}_" in row["file"] for row in table.to_pylist()] == [True] * 183
    assert set(read_mlrs(mlrs).table.column("domain").to_pylist()) == {"mlrsnet"}


def filled(text: str) -> str:
    """The table with neighbouring columns of one row overwritten with 1, as by a slipped fill of a spreadsheet."""
    lines = text.splitlines()
    cells = lines[2].split(",")
    cells[5:30] = ["1"] * 25
    return "\n".join([*lines[:2], ",".join(cells), *lines[3:]]) + "\n"


def emptied(label: str) -> Any:
    """Takes a label away from all rows of a table."""

    def change(text: str) -> str:
        header, *rows = (line.split(",") for line in text.splitlines())
        for row in rows:
            row[header.index(label)] = "0"
        return "".join(",".join(line) + "\n" for line in [header, *rows])

    return change


BROKEN = {
    "stadium": (emptied("stadium"), ["0% of its images have the label 'stadium'", "commit cd5ca1c"]),
    "storage_tank": (emptied("tanks"), ["0% of its images have the label 'tanks'", "commit cd5ca1c"]),
    "parkway": (filled, ["parkway_00004.jpg has", "no image of MLRSNet more than 13", "commit cd5ca1c"]),
    "intersection": (filled, ["intersection_00004.jpg has", "overwritten, as at the head of the repository"]),
    "lake": (lambda text: text.replace(",lake,", ",laek,"), ["line 1", "'laek' is not one of the 60 labels"]),
    "river": (lambda text: text.replace(",0,", ",,", 1), ["line 2", "'' is neither 0 nor 1"]),
    "park": (lambda text: text + text.splitlines()[1] + "\n", ["has 'park_00001.jpg' in two rows"]),
    "beach": (
        lambda text: text + text.splitlines()[1].replace(".jpg", ".png") + "\n",
        ["'beach_00001.jpg' in two rows"],
    ),
    "forest": (
        lambda text: text.replace("forest_00001", "river_00001"),
        ["'river_00001.jpg' is not an image of forest"],
    ),
    "cloud": (lambda text: text.replace("image,airplane,", "image,,").replace(",airport,", ",,"), ["'' is not one of"]),
}


@pytest.mark.parametrize("category", BROKEN)
def test_broken_labels_of_mlrsnet_are_one_line(category: str, mlrs: Path, command: Command) -> None:
    change, words = BROKEN[category]
    write_labels(mlrs / "labels", {category: change})
    options = ("--source", f"mlrsnet={mlrs}", "--allow-partial")
    done = command("build", "fed-rsic-multilabel", "--subset", MLRS, *options)
    refused(done, mlrs / "labels" / f"{category}.csv", *words, codes=(1,))


def test_an_incomplete_mlrsnet_says_what_it_lacks(mlrs: Path) -> None:
    with pytest.raises(SourceError, match="labels/ has 184 rows, the published one 109,161.*--allow-partial"):
        read_mlrs(mlrs, partial=False)
    (mlrs / "labels" / "desert.csv").unlink()
    (mlrs / "Images" / "lake" / "lake_00004.jpg").unlink()
    put(mlrs / "Images", "river/river_00002.jpg")
    index = read_mlrs(mlrs)
    assert index.missing == (
        "1 of 46 categories have no labels/<category>.csv: desert",
        f"1 of 180 images that have labels are not in {mlrs}: lake/lake_00004",
        f"5 images in {mlrs} have no row of labels: "
        + ", ".join(f"desert/desert_0000{number}.jpg" for number in (1, 4, 7))
        + " and 2 more",
    )
    (mlrs / "labels" / "tundra.CSV").write_text("image\n")
    with pytest.raises(SourceError, match=r"tundra\.CSV: is of none of the 46 categories"):
        read_mlrs(mlrs)
    shutil.rmtree(mlrs / "labels")
    with pytest.raises(SourceError, match="holds no image of MLRSNet with labels; 46 of 46 categories have no labels"):
        read_mlrs(mlrs)


def test_the_tables_of_mlrsnet_are_there_once(mlrs: Path) -> None:
    whole = read_mlrs(mlrs).table
    (mlrs / "labels" / "beach.csv").rename(mlrs / "labels" / "beach.CSV")
    assert read_mlrs(mlrs).table == whole
    for other in ("Labels", "old/labels"):
        (mlrs / other).mkdir(parents=True)
        again = Path(shutil.copy(mlrs / "labels" / "desert.csv", mlrs / other))
        with pytest.raises(SourceError, match=r"desert\.csv is of desert too; move one away"):
            read_mlrs(mlrs)
        again.unlink()


def test_another_table_of_mlrsnet_has_all_names(mlrs: Path) -> None:
    write_labels(mlrs / "labels", {"cloud": lambda text: text.replace(",airport,", ",,")})
    with pytest.raises(SourceError, match=r"cloud\.csv: line 1: '' is not one of the 60 labels"):
        read_mlrs(mlrs)


def test_mlrsnet_builds_from_a_folder_of_sources(mlrs: Path, tmp_path: Path, command: Command) -> None:
    options = ("--sources", tmp_path, "--allow-partial", "--clients", 3, "--out", tmp_path / "a", "--json")
    done = answer(command("build", "fed-rsic-multilabel", "--subset", MLRS, *options))
    assert sum(done["subsets"][MLRS]["rows"].values()) == 183  # type: ignore[index]
    assert verify(tmp_path / "a")[1] == []
    corrected = tuple("harbor" if name == "habor" else name for name in mlrsnet.LABELS)
    assert fedrsic_data.open(tmp_path / "a")[MLRS].classes == corrected
    native = ("--set", f"subsets.{MLRS}.class_names=native", "--overwrite")
    answer(command("build", "fed-rsic-multilabel", "--subset", MLRS, *options, *native))
    assert fedrsic_data.open(tmp_path / "a")[MLRS].classes == mlrsnet.LABELS


# AID


def mirror(path: Path, rows: int, names: Sequence[str]) -> Path:
    """A Parquet mirror as the Hub has it: images, and lists of numbers with names."""
    path.mkdir()
    images = [{"bytes": tiny_image(i, ".jpg"), "path": None} for i in range(rows)]
    labels = [sorted({i % len(names), i * i % len(names)}) for i in range(rows)]
    features = {
        "image": {"_type": "Image"},
        "label": {"_type": "List", "feature": {"names": list(names), "_type": "ClassLabel"}},
    }
    fields = pa.schema([("image", schema.IMAGE), ("label", pa.list_(pa.int64()))])
    table = pa.table([pa.array(images, schema.IMAGE), pa.array(labels, pa.list_(pa.int64()))], schema=fields)
    meta = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(meta), path / "train-00000-of-00001.parquet")
    return path


def test_aid_is_read_from_its_mirror_by_the_names_of_its_labels(tmp_path: Path) -> None:
    names = [name.replace("-", " ") for name in LABELS[::-1]]
    index = configured("aid-multilabel", {}, "test").index(mirror(tmp_path / "aid", 3000, names))
    assert index.classes == LABELS
    assert index.missing == ()
    found = sets(index)
    assert len(found) == 3000
    first = next(iter(found))
    assert first.startswith("aid-multilabel/")
    assert list(found.values()) == [{LABELS[16 - i % 17], LABELS[16 - i * i % 17]} for i in range(3000)]
    assert set(index.table.column("split").to_pylist()) == {None}


def test_other_parquet_files_are_not_aid(tmp_path: Path, command: Command) -> None:
    build = ("build", "fed-rsic-multilabel", "--subset", AID, "--source")
    few = mirror(tmp_path / "few", 20, LABELS)
    refused(command(*build, f"aid-multilabel={few}"), "20 of 3,000 images are there", "--allow-partial", codes=(1,))
    many = mirror(tmp_path / "many", 3001, LABELS)
    refused(command(*build, f"aid-multilabel={many}"), "holds 3,001 images, the published set 3,000", codes=(1,))
    other = mirror(tmp_path / "other", 20, [*LABELS[:-1], "lake"])
    refused(command(*build, f"aid-multilabel={other}"), "label 'lake' is not one of the 17", codes=(1,))
    done = command(
        *build, f"aid-multilabel={few}", "--allow-partial", "--clients", 2, "--out", tmp_path / "a", "--json"
    )
    assert sum(answer(done)["subsets"][AID]["rows"].values()) == 20  # type: ignore[index]


# all of them


def test_they_keep_the_contract_of_sources(mlrs: Path, ucmerced: Path, tmp_path: Path) -> None:
    check_source(SOURCES["mlrsnet"], mlrs)
    check_source(SOURCES["aid-multilabel"], mirror(tmp_path / "aid", 30, LABELS))
    zipped(tmp_path / "together", table())
    (tmp_path / "together" / "pictures").symlink_to(ucmerced / "UCMerced_LandUse" / "Images")
    check_source(SOURCES["ucmerced-multilabel"], tmp_path / "together")


# the recipe


def test_the_sample_serves_every_subset(tmp_path: Path, command: Command) -> None:
    options = ("--set", "sample.users=25", "--set", "sample.size=32", "--clients", 2, "--out", tmp_path / "a")
    answer(command("build", "fed-rsic-multilabel", "--sample", *options, "--json"))
    data = fedrsic_data.open(tmp_path / "a")
    assert set(data.subsets) == set(recipes.load("fed-rsic-multilabel")["subsets"])
    assert [data[name].classes == LABELS for name in data.subsets] == [True, True, False, True]
    assert set(data["fed-domains-multilabel"].plan.column("domain").to_pylist()) == {
        "sample-aid-multilabel",
        "sample-ucmerced-multilabel",
    }
    by_client = {(row["client_id"], row["domain"]) for row in data["fed-domains-multilabel"].plan.to_pylist()}
    assert len(by_client) == 2, "a client has images of one source"
    assert verify(tmp_path / "a")[1] == []


def test_the_sample_has_no_scene_classes(command: Command) -> None:
    options = ("--sample", "--subset", UCM, "--set", "sources.ucmerced-multilabel.domains=scene")
    done = command("build", "fed-rsic-multilabel", *options)
    refused(done, "sources.ucmerced-multilabel.domains=scene", "without --sample", codes=(2,))


def test_a_matrix_has_the_labels_of_any_order_of_columns() -> None:
    matrix = label_matrix.read(
        b"\xef\xbb\xbfimage,b,,a\nx.jpg,1,0,0\n\ny,0,1,1\n", "here", ",", ("a", "b", "c"), "again", "c"
    )
    assert matrix.images == ("x.jpg", "y")
    assert matrix.labels.tolist() == [[False, True, False], [True, False, True]]
