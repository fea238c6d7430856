"""Fakes with the sources' true layouts, and the command as people run it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from browser import running
from fedrsic import cli
from hubserver import Hub, serving
from PIL import Image
from rich.console import Console

from fedrsic_data import recipes
from fedrsic_data.build import pipeline
from fedrsic_data.dataset import manifest, schema
from fedrsic_data.dataset.reader import Subset
from fedrsic_data.raw import download
from fedrsic_data.sources import vocabulary
from fedrsic_data.sources.locate import Places

ROOT = Path(__file__).parent.parent
PYTHONPATH = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests/helpers")))
Done = subprocess.CompletedProcess
Command = Callable[..., "Done[str]"]
REAL = Path(os.environ.get("FEDKIT_TEST_DATA", ROOT.parent / "shared" / "data"))


def encoded(kind: str, image: Image.Image, **options: Any) -> bytes:
    """An image as a file of this kind of Pillow's."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tiny_image(number: int, suffix: str, size: tuple[int, int] = (8, 8)) -> bytes:
    """A whole image file whose pixels are unique to ``number``."""
    color = (number % 251, number // 251 % 251, number // 63001 % 251)
    kind = {".tif": "TIFF", ".jpg": "JPEG", ".png": "PNG"}[suffix]
    return encoded(kind, Image.new("RGB", size, color), **({"quality": 95} if kind == "JPEG" else {}))


def put(root: Path, *paths: str) -> Path:
    """Tiny images at these places below a folder."""
    for number, path in enumerate(paths):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(tiny_image(number, file.suffix.lower()))
    return root


def write_ucmerced(root: Path, suffix: str = ".tif", per_class: int = 100) -> Path:
    """UCMerced_LandUse/Images/<class>/<class>NN.tif"""
    for c, name in enumerate(vocabulary.native("ucmerced")):
        folder = root / "UCMerced_LandUse" / "Images" / name
        folder.mkdir(parents=True)
        for i in range(per_class):
            (folder / f"{name}{i:02d}{suffix}").write_bytes(tiny_image(c * 1000 + i, suffix))
    return root


def write_optimal31(root: Path) -> Path:
    """OPTIMAL-31/<class>/<class>(N).jpg, N not padded"""
    for c, name in enumerate(vocabulary.native("optimal31")):
        folder = root / "OPTIMAL-31" / name
        folder.mkdir(parents=True)
        for i in range(1, 61):
            (folder / f"{name}({i}).jpg").write_bytes(tiny_image(c * 1000 + i, ".jpg"))
    return root


def mirrored(root: Path, path: Path, names: list[str] | None = None) -> Path:
    """A Parquet mirror as the Hub has them: names with spaces, rows in any order."""
    classes = vocabulary.native("ucmerced")
    files = sorted((root / "UCMerced_LandUse" / "Images").rglob("*.tif"), key=lambda f: f.name[::-1])
    images = [{"bytes": f.read_bytes(), "path": f.name} for f in files]
    labels = [classes.index(f.parent.name) for f in files]
    features = {"image": {"_type": "Image"}, "label": {"names": names or list(classes), "_type": "ClassLabel"}}
    fields = pa.schema([("image", schema.IMAGE), ("label", pa.int64())])
    table = pa.table([pa.array(images, schema.IMAGE), pa.array(labels)], schema=fields)
    path.mkdir()
    meta = {"huggingface": json.dumps({"info": {"features": features}})}
    for i in range(2):
        part = table.slice(i * 1050, 1050).replace_schema_metadata(meta)
        pq.write_table(part, path / f"train-{i}.parquet", row_group_size=300)
    return path


def make(out: Path, places: Places | None = None, subset: str = "fed-ucmerced", **override: object) -> pipeline.Built:
    """Builds one subset of the shipped recipe."""
    places = places or Places(offline=True)
    data = recipes.override(recipes.load("fed-rsic"), subsets=[subset], **override)
    return pipeline.build(pipeline.prepare(recipes.from_json(data, "test"), places), out)


def sampled(out: Path, *sets: str, subset: str = "fed-ucmerced", **more: object) -> pipeline.Built:
    """Builds a small sample subset."""
    return make(out, subset=subset, sample=True, sets=["sample.per_class=6", "sample.size=32", *sets], **more)


def resealed(folder: Path) -> Path:
    """Writes size and digest of the two tables beside a manifest into it, as after a build that made them so."""
    held = manifest.load(folder)
    tables = {}
    for name in ("plan", "clients"):
        data = (folder / getattr(held, name).path).read_bytes()
        tables[name] = replace(getattr(held, name), bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    (folder / manifest.NAME).write_text(manifest.dumps(manifest.sealed(replace(held, **tables))), encoding="utf-8")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def labels_and_digests(subset: Subset, rows: Iterable[Mapping[str, Any]]) -> dict[str, tuple[set[str], str]]:
    """Names of the labels of multi-label rows, and sha256 of the image file, by sample id."""
    return {
        row["sample_id"]: (
            {subset.classes[i] for i in row["labels"]},
            hashlib.sha256(row["image"]["bytes"]).hexdigest(),
        )
        for row in rows
    }


def environment(**more: str) -> dict[str, str]:
    """The environment of a process that finds fedkit and these helpers."""
    return {**os.environ, "PYTHONPATH": PYTHONPATH, "FEDKIT_DEBUG": "0", **more}


def fedkit(*arguments: object, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs the command in a process of its own."""
    return subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(**env),
        timeout=300,
    )


def refused(done: Done[str], *words: object, codes: tuple[int, ...] = (1, 2)) -> str:
    """One line that says all of ``words``, and is not the line for what nobody thought of."""
    lines = done.stderr.splitlines()
    errors = [line for line in lines if not (line.endswith(" ...") or re.match(r"round \d+ of \d+: ", line))]
    assert done.returncode in codes, done.stderr[-2000:] or "it succeeded"
    assert len(errors) == 1, done.stderr[-2000:]
    assert errors[0].startswith("error: ")
    assert "unexpected" not in errors[0], errors[0][:500]
    assert "this is a bug" not in errors[0]
    assert len(errors[0]) < 2000, "an error is a line, not a page"
    for word in words:
        assert str(word) in errors[0], errors[0]
    return errors[0]


def answer(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    """The JSON a command printed."""
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return json.loads(done.stdout)


def printed(text: Any, width: int = 200) -> str:
    """What a console of this width shows of it."""
    terminal = Console(file=io.StringIO(), width=width)
    terminal.print(text, crop=False)
    return terminal.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _own_machine(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the sources or the cache of the machine it runs on."""
    monkeypatch.setenv("FEDKIT_CACHE", str(tmp_path_factory.getbasetemp() / f"cache-{uuid.uuid4().hex}"))
    monkeypatch.delenv("FEDKIT_SOURCES", raising=False)


@pytest.fixture(scope="session")
def app() -> Any:
    """The command line, made once: typer makes it anew for every command."""
    return typer.main.get_command(cli.app)


@pytest.fixture
def command(app: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command in this process, with no wait between two tries of a download."""
    monkeypatch.setenv("FEDKIT_DEBUG", "0")
    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(download, "_sleep", lambda _: None)

    def run(*arguments: object) -> Done[str]:
        words = [str(a) for a in arguments]
        monkeypatch.setattr(sys, "argv", ["fedkit", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        code = stopped.value.code
        return Done(words, code if isinstance(code, int) else int(code is not None), out, err)

    return run


@pytest.fixture
def random_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every CLIP that is loaded is a small one with random weights."""
    from prompt_federation import small_clip

    from fedtrain.models import clip

    monkeypatch.setattr(clip, "load", lambda _spec, _device: small_clip())


@pytest.fixture(name="encoded")
def images_encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images CLIPs encoded, call by call."""
    import torch

    from fedtrain.models.clip import Clip

    seen: list[int] = []
    encode = Clip.encode_images

    def counted(self: Clip, images: torch.Tensor, **how: bool) -> torch.Tensor:
        seen.append(len(images))
        return encode(self, images, **how)

    monkeypatch.setattr(Clip, "encode_images", counted)
    return seen


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A Hugging Face Hub on this machine, empty."""
    (tmp_path / "hub").mkdir()
    with serving(tmp_path / "hub") as served:
        yield served


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium, for the tests of one file."""
    with running() as held:
        yield held


@pytest.fixture(scope="session")
def ucmerced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete UC Merced of tiny TIFFs; not to be changed."""
    return write_ucmerced(tmp_path_factory.mktemp("ucmerced"))


@pytest.fixture(scope="session")
def optimal31(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete OPTIMAL-31 of tiny JPEGs; not to be changed."""
    return write_optimal31(tmp_path_factory.mktemp("optimal31"))


@pytest.fixture(scope="session")
def sample_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small sample of fed-ucmerced; not to be changed."""
    os.environ.setdefault("FEDKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
    return sampled(tmp_path_factory.mktemp("built") / "fed").path


@pytest.fixture(scope="session", params=["single-label", "multi-label"])
def data(request: pytest.FixtureRequest, sample_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small sample of either kind of data; not to be changed."""
    if request.param == "single-label":
        return sample_build
    data = recipes.override(recipes.load("flair"), sample=True, sets=["sample.users=10", "sample.size=32"])
    planned = pipeline.prepare(recipes.from_json(data, "test"), Places(offline=True))
    return pipeline.build(planned, tmp_path_factory.mktemp("flair") / "flair").path


@pytest.fixture
def dataset(sample_build: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(sample_build, tmp_path / "dataset"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real images in native layouts."""
    if not (REAL / "ucmerced").is_dir():
        pytest.skip(f"real images are not at {REAL}")
    return REAL
