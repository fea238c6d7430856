"""Reading what was built: fedkit's own reader, datasets, DuckDB, polars, PyTorch."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import environment, sampled
from damage import rewrite
from PIL import Image

import fedrsic_data
from fedrsic_data.errors import ManifestError, UsageError


def test_one_client(sample_build: Path) -> None:
    data = fedrsic_data.open(sample_build / "manifest.json")
    assert data.subsets == ("fed-ucmerced",)
    client = data.subset("fed-ucmerced").client("client-0003")
    table = client.read("train")
    assert table.column_names == ["image", "label", "client_id", "sample_id", "domain"]
    assert set(table.column("client_id").to_pylist()) == {"client-0003"}
    assert table.num_rows == client.rows("train") > 0
    assert Image.open(io.BytesIO(table.column("image")[0].as_py()["bytes"])).size == (32, 32)
    assert client.read("train", ["label"]).column_names == ["label"]


def test_batches_are_the_same_rows(sample_build: Path) -> None:
    client = fedrsic_data.open(sample_build).subset("fed-ucmerced").client("client-0003")
    batches = list(client.batches("train", rows=2))
    assert max(b.num_rows for b in batches) <= 2
    assert [i for b in batches for i in b.column("sample_id").to_pylist()] == client.read("train").column(
        "sample_id"
    ).to_pylist()


@pytest.mark.parametrize("label", [-1, 21, None])
def test_a_label_that_is_no_class_is_refused_though_all_digests_agree(
    sample_build: Path, tmp_path: Path, label: int | None
) -> None:
    """-1 would count from the end of the classes, and 21 break the method that looks it up."""
    shard = "fed-ucmerced/train/client-0003.parquet"
    folder = Path(shutil.copytree(sample_build, tmp_path / "d"))

    def relabelled(table: pa.Table) -> pa.Table:
        labels = [label, *table.column("label").to_pylist()[1:]]
        return table.set_column(1, table.schema.field("label"), pa.array(labels, pa.int64()))

    rewrite(shard, relabelled)(folder)
    subset = fedrsic_data.open(folder).subset("fed-ucmerced")
    assert subset.client("client-0003").read("train", ["sample_id"]).num_rows
    for reads in (subset.read, subset.client("client-0003").read):
        with pytest.raises(ManifestError, match=f"{shard}: label has a value that is no class of fed-ucmerced"):
            reads("train", ["label"])


@pytest.mark.parametrize("files", ["client", "packed"])
def test_one_client_touches_only_its_own_row_groups(
    files: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = sampled(tmp_path / "out", f"layout.files={files}", "layout.row_group_bytes=3000")
    subset = fedrsic_data.open(done.path).subset("fed-ucmerced")
    read: list[tuple[str, int]] = []
    original = pq.ParquetFile.read_row_group

    def spy(self: pq.ParquetFile, group: int, *args: object, **more: object) -> object:
        table = original(self, group, *args, **more)
        read.append((table.column("client_id")[0].as_py(), group))
        return table

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", spy)
    subset.client("client-0002").read("train")
    assert len(read) > 1
    assert {client for client, _ in read} == {"client-0002"}


def test_pooled(sample_build: Path) -> None:
    subset = fedrsic_data.open(sample_build).subset("fed-ucmerced")
    for split, rows in subset.entry.rows.items():
        assert subset.read(split, ["sample_id"]).num_rows == rows


def test_unknown_names_are_said(sample_build: Path, tmp_path: Path) -> None:
    data = fedrsic_data.open(sample_build)
    subset = data.subset("fed-ucmerced")
    with pytest.raises(UsageError, match="did you mean 'fed-ucmerced'"):
        data.subset("fed-ucmreced")
    with pytest.raises(UsageError, match="client-0000 to client-0009"):
        subset.client("client-10")
    with pytest.raises(UsageError, match="no split 'val'"):
        subset.client("client-0000").read("val")
    with pytest.raises(UsageError, match="no column 'lable'; did you mean 'label'"):
        subset.client("client-0000").read("train", ["lable"])
    with pytest.raises(ManifestError, match="does not exist"):
        fedrsic_data.open(tmp_path / "no")


def test_a_missing_shard_is_one_line(dataset: Path) -> None:
    (dataset / "fed-ucmerced/train/client-0003.parquet").unlink()
    with pytest.raises(ManifestError, match="client-0003.parquet: cannot be read.*fedkit verify"):
        fedrsic_data.open(dataset).subset("fed-ucmerced").client("client-0003").read("train")


def test_datasets_by_client(sample_build: Path) -> None:
    rows = fedrsic_data.open(sample_build).subset("fed-ucmerced").client("client-0003").dataset("train")
    assert rows.features["label"].names[0] == "agricultural"
    assert rows[0]["image"].size == (32, 32)


def test_load_dataset_knows_the_types(sample_build: Path, tmp_path: Path) -> None:
    code = (
        "import sys, datasets\n"
        "data = datasets.load_dataset(sys.argv[1], 'fed-ucmerced')\n"
        "assert sorted(data) == ['test', 'train'], data\n"
        "features = data['train'].features\n"
        "assert isinstance(features['image'], datasets.Image), features\n"
        "assert isinstance(features['label'], datasets.ClassLabel) and len(features['label'].names) == 21\n"
        "assert data['train'][0]['image'].size == (32, 32)\n"
        "print(len(data['train']) + len(data['test']))"
    )
    env = environment(HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    done = subprocess.run([sys.executable, "-c", code, str(sample_build)], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "126"


def test_duckdb(sample_build: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    glob = f"{sample_build}/fed-ucmerced/*/*.parquet"
    rows = duckdb.sql(
        f"SELECT client_id, count(*) AS n, min(octet_length(image.bytes)) FROM '{glob}' GROUP BY 1"
    ).fetchall()
    assert len(rows) == 10
    assert sum(n for _, n, _ in rows) == 126
    assert min(size for *_, size in rows) > 0


def test_polars(sample_build: Path) -> None:
    polars = pytest.importorskip("polars")
    table = polars.read_parquet(sample_build / "fed-ucmerced/train/client-0003.parquet")
    assert table["client_id"].unique().to_list() == ["client-0003"]
    assert table["image"].struct.field("bytes")[0][:4] == b"\x89PNG"


def test_torch(sample_build: Path) -> None:
    import torch

    from fedtrain.data import ImageDataset

    client = fedrsic_data.open(sample_build).subset("fed-ucmerced").client("client-0003")
    images = ImageDataset(client, "train")
    assert isinstance(images, torch.utils.data.Dataset)
    image, label = images[1]
    assert (image.dtype, tuple(image.shape), label.dtype) == (torch.uint8, (3, 32, 32), torch.int64)
    batch, labels = next(iter(torch.utils.data.DataLoader(images, batch_size=4)))
    assert tuple(batch.shape) == (4, 3, 32, 32)
    assert labels.tolist() == client.read("train", ["label"]).column(0).to_pylist()[:4]
    assert ImageDataset(client, "train", transform=lambda image: image.mode)[0][0] == "RGB"


def test_skew_as_tables(sample_build: Path) -> None:
    subset = fedrsic_data.open(sample_build).subset("fed-ucmerced")
    table = subset.skew
    assert table.column_names == ["metric", "value", "iid_low", "iid_high"]
    mean = dict(zip(table.column("metric").to_pylist(), table.column("value").to_pylist(), strict=True))
    clients = subset.client_skew("train")
    assert clients.column("client_id").to_pylist() == list(subset.clients)
    assert sum(clients.column("rows").to_pylist()) == subset.entry.rows["train"]
    for metric in ("total_variation", "jensen_shannon", "hellinger", "earth_movers"):
        values = clients.column(metric).to_pylist()
        assert sum(values) / len(values) == pytest.approx(mean[metric], abs=1e-6)


def test_subsets_and_clients_are_found_by_name_and_number(sample_build: Path) -> None:
    data = fedrsic_data.open(sample_build)
    assert len(data) == 1
    assert [subset.name for subset in data] == [data[0].name] == [data["fed-ucmerced"].name] == ["fed-ucmerced"]
    subset = data[0]
    assert len(subset) == 10
    assert [client.id for client in subset] == list(subset.clients)
    assert subset[-1].id == subset["client-0009"].id == "client-0009"
    assert subset[3]["test"][:] == subset[3].dataset("test")[:]
    assert [len(rows) for rows in subset[3]] == [subset[3].rows(split) for split in subset.splits]
    with pytest.raises(UsageError, match="did you mean 'fed-ucmerced'"):
        data["fed-ucmercd"]
    with pytest.raises(UsageError, match="no client 'nobody'"):
        subset["nobody"]
    with pytest.raises(IndexError, match="client 10: should be from 0 to 9"):
        subset[10]
    for wrong in (slice(0, 2), 1.0):
        with pytest.raises(UsageError, match="client .*: should be one name or one number"):
            subset[wrong]  # type: ignore[index]


def test_the_clients_rows_can_be_pooled(sample_build: Path) -> None:
    subset = fedrsic_data.open(sample_build)[0]
    pooled = subset.pooled()
    assert pooled.features["label"].names == list(subset.classes)
    assert pooled["sample_id"][:] == [i for client in subset for i in client.dataset("train")["sample_id"][:]]


def test_datasets_show_themselves(sample_build: Path) -> None:
    data = fedrsic_data.open(sample_build)
    assert "fed-ucmerced" in repr(data)
    assert "10 clients" in repr(data[0])
    assert f"{data[0][0].rows('train')} train" in repr(data[0][0])
    html = [data._repr_html_(), data[0]._repr_html_(), data[0][0]._repr_html_()]
    assert all(one.startswith("<table>") and one.count("<tr>") == one.count("</tr>") for one in html)
    assert f"<td>{data[0].rows('client-0003', 'train')}</td>" in html[1]


def test_names_in_a_notebook_are_escaped() -> None:
    from fedrsic_data.dataset import notebook

    assert "<script>" not in notebook.table("<script>", ["<script>"], [["<script>"]])
