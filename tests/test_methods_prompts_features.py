"""Features of a split: the order of their rows, and a cache that is never wrong."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import sampled
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional

import fedrsic_data
from fedrsic_data.dataset.local import LocalFiles
from fedrsic_data.dataset.reader import Dataset, Subset
from fedrsic_data.errors import BadImageError, ManifestError, OutputError, UsageError
from fedtrain.methods.prompts.features import Features, _encode, _facts, features
from fedtrain.models import tiny
from fedtrain.models.clip import Clip, frozen, load

CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 514, "width": 32, "heads": 2, "layers": 1},
}


def small(seed: int = 0) -> Clip:
    return frozen("small", CONFIG, tiny.Tokenizer([], 12), seed, {}, "cpu")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sampled(tmp_path_factory.mktemp("features") / "fed", subset="fed-domains").path


@pytest.fixture
def subset(built: Path) -> Subset:
    return fedrsic_data.open(built).subset("fed-domains")


def same(one: Features, other: Features) -> None:
    for field in dataclasses.fields(Features):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, field.name


def test_rows_are_in_the_order_of_the_clients_and_of_their_shards(
    subset: Subset, monkeypatch: pytest.MonkeyPatch, encoded: list[int]
) -> None:
    monkeypatch.setattr("fedtrain.methods.prompts.features._BATCH", 7)
    clip = small()
    found = features(clip, subset, "train")
    row = 0
    for number, name in enumerate(subset.clients):
        table = subset.client(name).read("train")
        for image, label, domain in zip(
            *(table.column(c).to_pylist() for c in ("image", "label", "domain")), strict=True
        ):
            with Image.open(io.BytesIO(image["bytes"])) as file:
                pixels = torch.from_numpy(np.array(file.convert("RGB"))).permute(2, 0, 1)
            torch.testing.assert_close(found.values[row], clip.encode_images(pixels[None])[0], rtol=1e-4, atol=1e-5)
            assert (int(found.labels[row]), int(found.client[row])) == (label, number)
            assert found.domains[found.domain[row]] == domain
            row += 1
    assert row == len(found) == subset.entry.rows["train"]
    assert set(encoded[: -(-row // 7)]) == {7, row % 7} - {0}  # images of several clients share a batch
    assert found.domains == ("sample-optimal31", "sample-resisc45", "sample-ucmerced")
    assert found.values.dtype == torch.float32
    assert found.labels.dtype == found.client.dtype == found.domain.dtype == torch.int64


def test_the_cache_gives_what_was_computed(subset: Subset, tmp_path: Path, encoded: list[int]) -> None:
    said: list[str] = []
    first = features(small(), subset, "test", cache=tmp_path, say=said.append)
    count = len(encoded)
    again = features(small(), subset, "test", cache=tmp_path, say=said.append)
    assert len(encoded) == count > 0
    assert said == [f"encoding {len(first)} images of fed-domains/test with clip small"]
    same(first, again)
    same(first, features(small(), subset, "test"))
    assert [p.suffix for p in (tmp_path / "features").iterdir()] == [".safetensors"]


def test_another_clip_split_or_shard_is_computed(
    subset: Subset, tmp_path: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = features(small(), subset, "test", cache=tmp_path)
    count = len(encoded)
    other = features(small(1), subset, "test", cache=tmp_path)
    assert not torch.equal(first.values, other.values)
    features(small(), subset, "train", cache=tmp_path)
    assert len(encoded) > count + 1
    count = len(encoded)
    shards = tuple(
        dataclasses.replace(s, sha256="0" * 64) if s.split == "test" and i % 3 == 0 else s
        for i, s in enumerate(subset.entry.shards)
    )
    assert shards != subset.entry.shards
    subset.entry = dataclasses.replace(subset.entry, shards=shards)
    monkeypatch.setattr(LocalFiles, "prove", lambda *_: None)  # as if the shards were those of another build
    same(first, features(small(), subset, "test", cache=tmp_path))
    assert len(encoded) > count
    assert len(list((tmp_path / "features").iterdir())) == 4


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "other key", "other shape", "other dtype"])
def test_a_damaged_or_foreign_cache_is_computed_again(
    damage: str, subset: Subset, tmp_path: Path, encoded: list[int]
) -> None:
    first = features(small(), subset, "test", cache=tmp_path)
    (file,) = (tmp_path / "features").iterdir()
    data, values, key = file.read_bytes(), load_file(file)["values"], file.stem
    if damage in ("truncated", "empty", "flipped"):
        flipped = data[:-1] + bytes([data[-1] ^ 1])
        file.write_bytes({"truncated": data[: len(data) // 2], "empty": b"", "flipped": flipped}[damage])
    else:
        changed = {"other key": values, "other shape": values[:-1], "other dtype": values.double()}[damage]
        save_file({"values": changed}, file, _facts("0" if damage == "other key" else key, changed))
    count = len(encoded)
    same(first, features(small(), subset, "test", cache=tmp_path))
    assert len(encoded) > count
    count = len(encoded)
    same(first, features(small(), subset, "test", cache=tmp_path))  # and it is whole again
    assert len(encoded) == count


def test_a_cache_that_cannot_be_written_is_said(subset: Subset, tmp_path: Path) -> None:
    (tmp_path / "features").write_text("in the way")
    with pytest.raises(OutputError, match="the cache cannot be written") as caught:
        features(small(), subset, "test", cache=tmp_path)
    assert "\n" not in str(caught.value)


def test_an_image_that_cannot_be_decoded_is_named(subset: Subset, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Iterator[list[tuple[str, bytes]]]:
        yield [("sample-x/beach/07", b"GIF89a")]

    monkeypatch.setattr("fedtrain.methods.prompts.features._files", broken)
    with pytest.raises(BadImageError, match="fed-domains: image sample-x/beach/07: damaged image"):
        features(small(), subset, "test")


def test_images_of_any_size_share_a_batch(subset: Subset, monkeypatch: pytest.MonkeyPatch) -> None:
    def files(*_: object) -> Iterator[list[tuple[str, bytes]]]:
        for size in ((32, 32), (90, 41), (20, 64)):
            buffer = io.BytesIO()
            Image.new("L", size, 128).save(buffer, "PNG")
            yield [(str(size), buffer.getvalue())]

    monkeypatch.setattr("fedtrain.methods.prompts.features._files", files)
    values = _encode(small(), subset, "test")
    assert values.shape == (3, 24)
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(values[0], values[2])


def test_a_split_that_is_not_there_is_refused(subset: Subset) -> None:
    with pytest.raises(UsageError, match="no split 'validation'"):
        features(small(), subset, "validation")


def test_shards_that_were_exchanged_are_not_kept_as_what_they_should_be(tmp_path: Path) -> None:
    """Else a sound dataset would be given their features, under the digests that both manifests name."""
    built = sampled(tmp_path / "fed", "clients=2", "sample.per_class=2").path
    first, second = sorted((built / "fed-ucmerced" / "train").iterdir())
    aside = tmp_path / "aside"
    for source, target in ((first, aside), (second, first), (aside, second)):
        source.rename(target)
    clip = load("tiny")
    with pytest.raises(ManifestError, match="does not match the manifest; run: fedkit verify"):
        features(clip, Dataset(built).subset("fed-ucmerced"), "train", cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_patches_have_a_file_of_their_own(subset: Subset, tmp_path: Path, encoded: list[int]) -> None:
    clip = small()
    plain = features(clip, subset, "test", cache=tmp_path)
    found = features(clip, subset, "test", cache=tmp_path, kind="patches")
    assert len(list((tmp_path / "features").iterdir())) == 2
    assert found.values.shape == (len(plain), 1 + 4, 24)
    assert found.values.dtype == torch.float16
    torch.testing.assert_close(found.values[:, 0].float(), plain.values, rtol=1e-2, atol=1e-3)
    assert torch.equal(features(clip, subset, "test", cache=tmp_path, kind="patches").values, found.values)
    assert torch.equal(features(clip, subset, "test", cache=tmp_path).values, plain.values)
    assert encoded == [len(plain)]  # once, and the patches apart


def test_half_numbers_of_patches_move_no_cosine_further_than_they_say(subset: Subset, tmp_path: Path) -> None:
    clip, said = small(), []
    whole = features(clip, subset, "test", cache=tmp_path, kind="patches", kept="float32", say=said.append).values
    half = features(clip, subset, "test", cache=tmp_path, kind="patches", kept="float16", say=said.append).values
    assert [re.search(r"the patches \(([\d.]+) MB\) of", words).group(1) for words in said] == ["0.0", "0.0"]
    assert len(list((tmp_path / "features").iterdir())) == 2
    texts = functional.normalize(torch.randn(500, 24, generator=torch.Generator().manual_seed(0)), dim=-1)
    away = (half.double() @ texts.T.double() - whole.double() @ texts.T.double()).abs().max()
    assert 1e-5 < away < 0.0005


def test_patches_that_no_memory_holds_are_refused_before_any_is_encoded(
    subset: Subset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: list[int]
) -> None:
    clip, count = small(), subset.entry.rows["test"]
    needed = 2 * count * 5 * 24 * 2
    for kept, memory in (("float16", needed - 1), ("float32", 2 * needed - 1)):
        monkeypatch.setattr("fedtrain.methods.prompts.features._memory", lambda memory=memory: memory)
        with pytest.raises(UsageError, match=f"the patches of {count} images take .* GB as {kept}, .* this machine"):
            features(clip, subset, "test", cache=tmp_path, kind="patches", kept=kept)
        monkeypatch.setattr("fedtrain.methods.prompts.features._memory", lambda memory=memory: memory + 1)
        assert len(features(clip, subset, "test", cache=tmp_path, kind="patches", kept=kept)) == count
