"""One client of 51,414 is read from the Hub without the others: the server counts what it sends."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import environment, tiny_image
from hubserver import serving

from fedrsic_data import recipes
from fedrsic_data.build import pipeline, plan
from fedrsic_data.build.plan import Planned
from fedrsic_data.dataset.manifest import Manifest, SourceEntry
from fedrsic_data.raw.index import ClassRows, Index, single_label_table
from fedrsic_data.recipes.resolve import partitioner_of
from fedrsic_data.sources import vocabulary

CLIENTS, EACH, IMAGE = 51_414, 2, 2_000  # as many users as FLAIR has, of less and smaller images


class Padded:
    """Whole PNG files of one size, that of small photographs."""

    def __init__(self) -> None:
        image = tiny_image(1, ".png")
        kind, noise = b"fdKt", np.random.default_rng(0).bytes(IMAGE - len(image) - 12)  # a chunk that readers pass over
        chunk = struct.pack(">I", len(noise)) + kind + noise + struct.pack(">I", zlib.crc32(kind + noise))
        self.file = image[:-12] + chunk + image[-12:]

    def prepare(self, scratch: Path, *, shared: bool = False) -> None: ...

    def read(self, keys: Sequence[str]) -> list[bytes]:
        return [self.file] * len(keys)

    def where(self, key: str) -> str:
        return key


def federation(out: Path) -> Manifest:
    """A dataset with a client for each of its users, packed into shards of as many clients as those of FLAIR."""
    classes = vocabulary.native("ucmerced")
    rows, made = CLIENTS * EACH, []
    for part in np.array_split(np.arange(rows), len(classes)):
        names = pa.array([f"image-{row:06d}" for row in part])
        made.append(ClassRows(names, names, names))
    table = single_label_table("ucmerced", made)
    users = pa.array([f"user-{row % CLIENTS:05d}" for row in range(rows)])
    table = table.set_column(table.schema.get_field_index("group"), table.schema.field("group"), users)
    index = Index(table, classes, Padded(), "synthetic")
    data = {
        "fedkit": 1,
        "name": "many",
        "subsets": {"many": {"sources": ["ucmerced"]}},
        "splits": {},
        "partition": {"name": "natural"},
        "layout": {"files": "packed", "shard_bytes": 800 * EACH * IMAGE},
    }
    wanted = recipes.from_json(data, "test")
    divided = plan.divide(
        wanted, "many", partitioner_of(wanted, "many"), plan.merge(wanted.subsets["many"], [index]), []
    )
    entry = SourceEntry("synthetic", "", "none", "none", True, rows, ())
    planned = Planned.of(wanted, {"ucmerced": entry}, [divided], "synthetic", 0, [], {})
    return pipeline.build(planned, out).manifest


@pytest.mark.slow
def test_one_client_of_51_414_costs_under_one_percent(tmp_path: Path) -> None:
    built = federation(tmp_path / "many")
    assert built.subsets["many"].clients == CLIENTS
    total = sum(path.stat().st_size for path in (tmp_path / "many").rglob("*") if path.is_file())
    assert total > CLIENTS * EACH * IMAGE
    code = (
        "import fedrsic_data\n"
        "client = fedrsic_data.open('hf://me/many').subset('many').client('user-31415')\n"
        "table = client.read('train')\n"
        "print(table.num_rows, set(table.column('client_id').to_pylist()))"
    )
    (tmp_path / "hub").mkdir()
    with serving(tmp_path / "hub") as hub:
        hub.adopt("me/many", tmp_path / "many")
        env = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf"), "FEDKIT_CACHE": str(tmp_path / "cache")}
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=environment(**env),
            timeout=120,
        )
        assert done.stdout.strip() == f"{EACH} {{'user-31415'}}", done.stderr
        sent = hub.sent()
        shards = [one for one in hub.seen if "/train/" in one.path]
    shutil.rmtree(tmp_path / "many")
    print(f"{sent:,} of {total:,} bytes, {100 * sent / total:.3f}%; {len(shards)} requests to shards")
    assert sent < total / 100
    assert len({one.path for one in shards}) == 1
    assert shards[-1].sent < 3 * EACH * IMAGE, "the images of this client, not its neighbours'"
    assert len(shards) <= 3, "a footer, in two reads where it is long, and the row groups"
