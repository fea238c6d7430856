"""The tiny CLIP that comes with the package: what ships, how it reads, what it knows."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest
import torch
from conftest import ROOT, sampled
from hypothesis import given, settings
from hypothesis import strategies as st

import fedrsic_data
from fedrsic_data.errors import UsageError
from fedrsic_data.sample import CLASSES
from fedtrain.methods.prompts.features import features
from fedtrain.models import tiny
from fedtrain.models.clip import Clip, load
from fedtrain.models.prompts import PromptEncoder

GROUND = [
    "airplane",
    "bare soil",
    "buildings",
    "cars",
    "chaparral",
    "court",
    "dock",
    "field",
    "grass",
    "mobile home",
    "pavement",
    "sand",
    "sea",
    "ship",
    "tanks",
    "trees",
    "water",
]


@pytest.fixture(scope="module")
def clip() -> Clip:
    return load("tiny")


def test_it_is_small_and_whole() -> None:
    folder = resources.files("fedtrain.models.tiny")
    files = {
        name: len((folder / name).read_bytes()) for name in ("config.json", "vocabulary.json", "weights.safetensors")
    }
    assert sum(files.values()) <= 4_000_000
    words = json.loads((folder / "vocabulary.json").read_text())
    assert words == sorted(set(words))


def test_it_loads_the_same_every_time_and_leaves_the_global_generator_alone(clip: Clip) -> None:
    before = torch.get_rng_state()
    again = load("tiny")
    assert torch.equal(before, torch.get_rng_state())
    assert again.digest == clip.digest
    texts = ["a photo of a beach.", "something else"]
    assert torch.equal(again.encode_texts(texts), clip.encode_texts(texts))
    assert again.name == "tiny"
    assert all(value.dtype == torch.float32 for value in again.model.parameters())


def test_its_words_are_those_of_the_samples(clip: Clip) -> None:
    for name in (*CLASSES, *GROUND, "a photo of a {}."):
        spoken = name.replace("_", " ").replace("{}", "")
        assert len(clip.tokenizer.encode(spoken)) == len(tiny.pieces(spoken)), name
    PromptEncoder(clip, CLASSES, 16)


@given(st.text(max_size=40))
@settings(max_examples=60, deadline=None)
def test_any_text_has_numbers_and_comes_back(text: str) -> None:
    tokenizer = tiny.Tokenizer(["a", "beach", "ß"], 77)
    numbers = tokenizer.encode(text)
    assert all(0 <= n < tokenizer.sot_token_id for n in numbers)
    assert tokenizer.decode([tokenizer.sot_token_id, *numbers, tokenizer.eot_token_id, 0, 0]) == " ".join(
        tiny.pieces(text)
    )
    kept = "".join(text.lower().split())
    assert "".join(tiny.pieces(text)) == kept  # nothing but white space is lost


def test_words_it_does_not_know_are_spelled() -> None:
    tokenizer = tiny.Tokenizer(["beach"], 77)
    assert tokenizer.encode("Beach") == [512]
    assert tokenizer.encode("bé.") == [ord("b"), 0xC3, 256 + 0xA9, 256 + ord(".")]
    assert tokenizer.encode("7_7") == [256 + ord("7"), 256 + ord("_"), 256 + ord("7")]
    assert tokenizer.encode("beaches") != tokenizer.encode("beach es")


def test_a_text_that_is_too_long_is_refused(clip: Clip) -> None:
    with pytest.raises(UsageError, match=f"tiny takes {clip.context_length}; shorten it"):
        clip.encode_texts(["a photo of a beach. " * 20])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sampled(tmp_path_factory.mktemp("tiny") / "fed", "sample.size=64", subset="fed-ucmerced").path


def test_it_tells_the_sample_classes_apart_but_not_perfectly(clip: Clip, built: Path) -> None:
    subset = fedrsic_data.open(built).subset("fed-ucmerced")
    found = features(clip, subset, "train")
    text = clip.encode_texts([f"a photo of a {name.replace('_', ' ')}." for name in subset.classes])
    right = ((found.values @ text.T).argmax(1) == found.labels).float().mean().item()
    assert 8 / len(subset.classes) < right < 0.9
    half = len(subset.classes) // 2
    novel = found.labels >= half
    guess = (found.values[novel] @ text[half:].T).argmax(1) + half
    assert (guess == found.labels[novel]).float().mean().item() > 4 / half


def test_words_of_what_is_on_the_ground_mean_something(clip: Clip, built: Path) -> None:
    subset = fedrsic_data.open(built).subset("fed-ucmerced")
    found = features(clip, subset, "train")
    text = clip.encode_texts([f"a photo of {word}." for word in GROUND])
    scores = found.values @ text.T
    for word, there in {"cars": "parking_lot", "trees": "forest", "sand": "beach", "airplane": "airplane"}.items():
        mine = found.labels == subset.classes.index(there)
        column = scores[:, GROUND.index(word)]
        assert column[mine].mean() > column[~mine].mean() + 0.1, word


def test_the_shipped_files_are_those_the_script_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Architecture and words; the weights would take minutes."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import pretrain_tiny_clip as pretraining

    config = json.loads((resources.files("fedtrain.models.tiny") / "config.json").read_text())["model_cfg"]
    vocab = config["text_cfg"].pop("vocab_size")
    assert config == json.loads(json.dumps(pretraining.MODEL))
    _, captions, _ = pretraining.scenes(2)
    words = json.loads((resources.files("fedtrain.models.tiny") / "vocabulary.json").read_text())
    assert set(pretraining.vocabulary(captions)) <= set(words)
    assert vocab == 512 + len(words) + 2
