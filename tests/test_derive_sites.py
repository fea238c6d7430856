"""Datasets taken apart: every folder proves itself, and together they are the whole."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from conftest import answer, contents, fedkit, refused, sampled

from fedrsic_data import recipes
from fedrsic_data.build import pipeline
from fedrsic_data.build.verify import verify
from fedrsic_data.dataset import manifest
from fedrsic_data.dataset.reader import Dataset
from fedrsic_data.derive import resplit, sites
from fedrsic_data.errors import ManifestError, OutputError, UsageError, VerificationError
from fedrsic_data.sources.locate import Places


def flair(out: Path, *sets: str) -> Path:
    data = recipes.override(recipes.load("flair"), sample=True, sets=["sample.users=10", "sample.size=64", *sets])
    return pipeline.build(pipeline.prepare(recipes.from_json(data, "test"), Places(offline=True)), out).path


def same_rows(whole: Path, out: Path, group: int = 1) -> None:
    """Every row of every client is at its site, and no site has another."""
    dataset = Dataset(whole)
    seen: dict[str, int] = {}
    for folder in sorted(p for p in out.iterdir() if p.name != sites.SERVER):
        built, problems = verify(folder)
        assert problems == []
        site = Dataset(folder)
        for name in site.subsets:
            mine, theirs = site.subset(name), dataset.subset(name)
            assert len(mine.clients) <= group
            assert (mine.classes, mine.splits, mine.schema()) == (theirs.classes, theirs.splits, theirs.schema())
            for split in mine.splits:
                rows = [mine.client(client).read(split) for client in mine.clients]
                for client, table in zip(mine.clients, rows, strict=True):
                    assert table.equals(theirs.client(client).read(split))
                assert mine.read(split).equals(pa.concat_tables(rows))
                seen[name] = seen.get(name, 0) + sum(table.num_rows for table in rows)
        assert built.plan.rows == sum(sum(s.rows.values()) for s in built.subsets.values())
        owners = set(site.plan.column("client_id").to_pylist())
        assert owners <= {client for name in site.subsets for client in site.subset(name).clients}
    assert seen == {name: sum(s.rows.values()) for name, s in dataset.manifest.subsets.items()}


def test_a_folder_a_client(sample_build: Path, tmp_path: Path) -> None:
    made = sites.split(sample_build, tmp_path / "sites")
    assert [site.name for site in made] == [f"client-{k:04d}" for k in range(10)]
    same_rows(sample_build, tmp_path / "sites")
    whole = contents(sample_build)
    for name, data in contents(tmp_path / "sites").items():
        if name.startswith("client-") and "/fed-ucmerced/" in name:
            assert data == whole[name.partition("/")[2]]  # files of one client are copied, not written anew
    assert sorted(os.listdir(tmp_path)) == ["sites"]


def test_groups_and_several_subsets(tmp_path: Path) -> None:
    data = recipes.override(
        recipes.load("fed-rsic"),
        subsets=["fed-ucmerced", "fed-optimal"],
        sample=True,
        sets=["sample.per_class=4", "sample.size=32", "clients=5"],
    )
    whole = pipeline.build(
        pipeline.prepare(recipes.from_json(data, "test"), Places(offline=True)), tmp_path / "fed"
    ).path
    made = sites.split(whole, tmp_path / "sites", group=2)
    assert [site.name for site in made] == ["site-00000", "site-00001", "site-00002"]
    assert made[2].clients == ("client-0004",)
    same_rows(whole, tmp_path / "sites", group=2)


@pytest.mark.slow
@pytest.mark.parametrize("files", ["client", "packed"])
def test_label_sets_users_and_packed_shards(tmp_path: Path, files: str) -> None:
    whole = flair(tmp_path / "flair", f"layout.files={files}")
    made = sites.split(whole, tmp_path / "sites")
    same_rows(whole, tmp_path / "sites")
    total = sum((pc.sum(pa.array(_fine(tmp_path / "sites" / site.name))).as_py() or 0) for site in made)
    assert total == sum(_fine(whole))
    again = sites.split(whole, tmp_path / "again")
    assert made == again
    assert contents(tmp_path / "sites") == contents(tmp_path / "again")


def _fine(folder: Path) -> tuple[int, ...]:
    (subset,) = Dataset(folder).manifest.subsets.values()
    assert subset.fine is not None
    return subset.fine.train_counts


def test_the_server_has_names_and_rows_and_no_labels(sample_build: Path, tmp_path: Path) -> None:
    sites.split(sample_build, tmp_path / "sites")
    folder = tmp_path / "sites" / sites.SERVER
    assert verify(folder)[1] == []
    assert sorted(contents(folder)) == ["README.md", "clients.parquet", "manifest.json", "plan.parquet"]
    whole, server = (Dataset(path).subset("fed-ucmerced") for path in (sample_build, folder))
    for column in ("client_id", "split", "rows"):
        assert server.client_table.column(column).equals(whole.client_table.column(column))
    for column in ("labels", "counts", "domains", "domain_counts"):
        assert all(value == [] for value in server.client_table.column(column).to_pylist())
    assert set(server.entry.train_counts) == {0}
    assert server.dataset.plan.num_rows == 0


def test_what_cannot_be(sample_build: Path, dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--group=0 should be at least 1"):
        sites.split(sample_build, tmp_path / "sites", group=0)
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "thesis.tex").write_text("precious")
    with pytest.raises(OutputError, match="already exists"):
        sites.split(sample_build, tmp_path / "sites")
    (tmp_path / "new.incomplete").mkdir()
    (tmp_path / "new.incomplete" / "thesis.tex").write_text("precious")
    with pytest.raises(OutputError, match="no build creates"):
        sites.split(sample_build, tmp_path / "new")
    assert (tmp_path / "new.incomplete" / "thesis.tex").read_text() == "precious"
    victim = next((dataset / "fed-ucmerced" / "train").iterdir())
    victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.raises(VerificationError, match="before handing it out"):
        sites.split(dataset, tmp_path / "damaged")
    assert not (tmp_path / "damaged").exists()


def test_a_client_named_as_the_server(tmp_path: Path) -> None:
    assert sites._names([("a",), ("Server",)]) == ["site-00000", "site-00001"]
    assert sites._names([("a",), ("A",)]) == ["site-00000", "site-00001"]
    assert sites._names([("a",), ("../b",)]) == ["site-00000", "site-00001"]
    assert sites._names([("a",), ("b",)]) == ["a", "b"]


@pytest.mark.slow
def test_the_command(sample_build: Path, tmp_path: Path) -> None:
    told = answer(fedkit("split-sites", sample_build, "--out", "sites", "--group", 4, "--json", cwd=tmp_path))
    assert [site["name"] for site in told["sites"]] == ["site-00000", "site-00001", "site-00002"]
    assert fedkit("verify", "sites/site-00001", cwd=tmp_path).returncode == 0
    refused(fedkit("split-sites", sample_build, "--out", "sites", cwd=tmp_path), "--out sites", codes=(1,))


def test_clients_without_rows(tmp_path: Path) -> None:
    """A client of held-out rows only, or of none, has a folder too."""
    whole = sampled(tmp_path / "fed", "alpha=0.01", "clients=15", "min_size=0").path
    sites.split(whole, tmp_path / "sites")
    same_rows(whole, tmp_path / "sites")


def test_the_server_folder_says_what_it_is(sample_build: Path, tmp_path: Path) -> None:
    """It is shown without figures of labels it does not have, and nobody trains on it without its sites."""
    sites.split(sample_build, tmp_path / "sites")
    server = tmp_path / "sites" / sites.SERVER
    shown = fedkit("inspect", server, cwd=tmp_path).stdout
    assert "classes and labels stay at the sites: skew is not known here" in shown
    assert "by chance" not in shown
    assert "its images are at the sites" in fedkit("verify", server, cwd=tmp_path).stdout
    done = fedkit("train", "zeroshot", "--manifest", server, "--rounds", 0, cwd=tmp_path)
    refused(done, "holds no images, which are at the sites; train with: fedkit flower run", codes=(2,))
    assert not (tmp_path / "runs").exists()


def test_nothing_goes_into_the_dataset(sample_build: Path) -> None:
    before = contents(sample_build)
    with pytest.raises(OutputError, match="is inside the dataset"):
        sites.split(sample_build, sample_build / "sites")
    assert contents(sample_build) == before


@pytest.mark.parametrize(
    ("out", "words"),
    [
        (".", "is the current folder"),
        ("..", "is the current folder"),
        ("s3://bucket/fed", "--out s3://...: is a URL; give a local folder"),
        ("s3://KEY:SuPerSecret@bucket/fed", "--out s3://...: is a URL; give a local folder"),
        ("s3:///x", "is a URL"),
        ("://x", "is a URL"),
        ("n" * 300, "cannot be written .File name too long"),
        ("n" * 250, "cannot be written .File name too long"),
        ("d/" * 2000, "name is too long"),
        ("a\0b", "not a valid name"),
        ("file", "is a file"),
        ("file/below", "cannot be written"),
        ("nothing", "is a broken symbolic link"),
    ],
)
def test_places_for_no_folder(
    out: str, words: str, sample_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused in one line before anything is written; so it is by a build."""
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "file").touch()
    (inside / "nothing").symlink_to("nowhere")
    monkeypatch.chdir(inside)
    for writes in (sites.split, resplit_to):
        with pytest.raises((UsageError, OutputError), match=words) as caught:
            writes(sample_build, Path(out))
        assert "\n" not in str(caught.value)
        assert "SuPerSecret" not in str(caught.value)
        assert sorted(os.listdir(inside)) == ["file", "nothing"]


def test_sites_that_are_there_already_stay(sample_build: Path, tmp_path: Path) -> None:
    """Those that would be written again are left alone; others are refused, and so is a changed file."""
    first = sites.split(sample_build, tmp_path / "sites", group=5)
    before = contents(tmp_path)
    assert sites.split(sample_build, tmp_path / "sites", group=5) == first
    with pytest.raises(OutputError, match="already exists"):
        sites.split(sample_build, tmp_path / "sites", group=6)
    assert contents(tmp_path) == before
    for name in ("site-00000/notes.md", "site-00001/README.md", "server/manifest.json"):
        path = tmp_path / "sites" / name
        path.write_text("mine")
        with pytest.raises(OutputError, match=f"already exists with another {name}"):
            sites.split(sample_build, tmp_path / "sites", group=5)
        assert path.read_text() == "mine"
        path.write_bytes(before[f"sites/{name}"]) if f"sites/{name}" in before else path.unlink()
    assert contents(tmp_path) == before


def resplit_to(whole: Path, out: Path) -> None:
    pipeline.build(resplit.prepare(whole, lambda recipe: recipe), out)


def test_links_are_followed_or_refused(sample_build: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    sites.split(sample_build, tmp_path / "link")
    same_rows(sample_build, tmp_path / "real")
    assert (tmp_path / "link").is_symlink()
    (tmp_path / "empty").mkdir()
    for name, writes in (("new", sites.split), ("built", resplit_to)):
        aside = tmp_path / f"{name}.incomplete"
        aside.symlink_to("empty")
        with pytest.raises(OutputError, match=f"{name}.incomplete: is a link, which no build creates; remove it"):
            writes(sample_build, tmp_path / name)
        assert aside.is_symlink()
        assert os.listdir(tmp_path / "empty") == []
        assert not (tmp_path / name).exists()


def test_what_has_no_images_is_not_taken_apart(sample_build: Path, tmp_path: Path) -> None:
    sites.split(sample_build, tmp_path / "sites")
    with pytest.raises(UsageError, match="server: holds no images; split the dataset that has them"):
        sites.split(tmp_path / "sites" / sites.SERVER, tmp_path / "again")
    reference = Path(shutil.copytree(sample_build, tmp_path / "reference"))
    shutil.rmtree(reference / "fed-ucmerced")
    said = manifest.dumps(manifest.sealed(replace(manifest.load(reference), reference=True)))
    (reference / manifest.NAME).write_text(said, encoding="utf-8")
    with pytest.raises(ManifestError, match="without its images"):
        sites.split(reference, tmp_path / "again")
    assert sorted(os.listdir(tmp_path)) == ["reference", "sites"]
