"""The training paths of every method mix no tensors of two devices, so that a GPU finds no forgotten ``.to()``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from costume import WORN, Costume, WornGenerator
from prompt_federation import LENGTH
from small_backbone import small_backbone

from fedrsic_data.dataset.reader import Dataset
from fedtrain.methods import METHODS
from fedtrain.methods.base import Context
from fedtrain.methods.networks import album, network
from fedtrain.models import clip, label_transformer

SMALL = {
    "length": 4,
    "epochs": 1,
    "shots": 2,
    "image_size": 64,
    "max_images": 3,
    "batch": 2,
    "hidden": 32,
    "layers": 1,
    "rank": 2,
}


@pytest.fixture
def costume(monkeypatch: pytest.MonkeyPatch) -> Iterator[Costume]:
    """The costume, with a small CLIP and a small backbone, and nothing that works in a thread."""
    config = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16},
        "text_cfg": {"context_length": LENGTH, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    words = open_clip.get_tokenizer("ViT-B-32")
    monkeypatch.setattr(clip, "load", lambda _, device: clip.frozen("small", config, words, 0, {}, device))
    monkeypatch.setattr(label_transformer, "backbone", small_backbone)
    monkeypatch.setattr(network, "ahead", lambda items: items)
    monkeypatch.setattr(torch, "Generator", WornGenerator)
    album._moments.cache_clear()
    with Costume() as worn:
        yield worn
    album._moments.cache_clear()


def test_the_costume_finds_what_a_gpu_would_refuse(costume: Costume) -> None:
    here, there = torch.ones(3), torch.ones(3, device=WORN)
    assert (here.device.type, there.device) == ("cpu", WORN)
    assert (there * 2 + torch.tensor(1.0)).device == WORN
    assert (there[torch.tensor([0, 1])].device, there.cpu().device.type) == (WORN, "cpu")
    assert torch.nn.Parameter(there.view(1, 3)).device == WORN
    leaf = there.clone().requires_grad_()
    (leaf * there).sum().backward()
    assert leaf.grad.device == WORN
    for wrong in (
        lambda: here + there,
        lambda: torch.cat([here, there]),
        lambda: here[there.long()],
        lambda: there.numpy(),
        lambda: torch.rand(3, device=WORN, generator=torch.Generator()),
        lambda: torch.rand(3, generator=torch.Generator(WORN)),
    ):
        with pytest.raises(AssertionError):
            wrong()


@pytest.mark.parametrize("name", METHODS)
def test_a_method_trains_and_is_judged_on_its_device_alone(
    costume: Costume, data: Path, name: str, tmp_path: Path
) -> None:
    subset = Dataset(data)[0]
    rows = tuple(subset.client(client).rows("train") for client in subset.clients)
    known = {field.name for field in dataclasses.fields(METHODS[name].Settings)}
    settings: Any = METHODS[name].Settings(**{key: value for key, value in SMALL.items() if key in known})
    method = METHODS[name](Context(subset, subset.clients, rows, 0, WORN, cache=tmp_path), settings)
    shared, own = method.shared(), {client: method.personal(client) for client in range(len(rows))}
    states = [shared, *own.values()]
    if METHODS[name].rounds:
        clients = sorted(sorted(range(len(rows)), key=lambda client: -rows[client])[:2])
        updates = [
            update
            for client in clients
            for update in method.train(method.sent_to(client, shared), [own[client]], [client], 1)
        ]
        own |= {update.client: update.personal for update in updates}
        shared = method.aggregate(shared, updates)
        states += [shared, *own.values()]
    found = method.evaluate(shared, own.__getitem__, "test")
    assert len(found.clients["local"]) == len(rows)
    assert all(costume.wears(value) for state in states for value in state.values() if value.dim())
