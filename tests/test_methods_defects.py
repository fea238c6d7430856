"""Defects known from public code of this field, which the prompt methods must not have."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, environment, sampled
from PIL import Image
from prompt_federation import PROMPTS, bind, judged, same, small_clip, trained

from fedtrain.engines.rounds import sent
from fedtrain.methods.prompts.cohort import gather, schedule
from fedtrain.models import clip
from fedtrain.seeds import generator

pytestmark = pytest.mark.usefixtures("random_clip")


@pytest.fixture(scope="module")
def domains_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sensors, each split over clients by Dirichlet."""
    sets = ["sample.per_class=4", "domain_mix=0.0", "clients=7", "alpha=0.5", "splits.test=0.3"]
    return sampled(tmp_path_factory.mktemp("domains") / "fed", *sets, subset="fed-domains").path


@pytest.mark.parametrize(
    ("name", "names", "floats"),
    [
        ("fedotp", {"general"}, 8_192),
        ("fedpgp", {"sigma"}, 8_192),
        ("fedrsclip", {"shared_prompt"}, 2_048),
        ("promptfl", {"context"}, 8_192),
        ("promptfolio", {"global_prompt"}, 8_192),
        ("local", set(), 0),
    ],
)
def test_4_only_trained_shared_tensors_leave_a_client(
    sample_build: Path, monkeypatch: pytest.MonkeyPatch, name: str, names: set[str], floats: int
) -> None:
    """Defect 4: the whole state dict travels. Here: floats counted with a text encoder 512 wide."""
    monkeypatch.setattr(clip, "load", lambda _spec, _device: small_clip(512))
    method = bind(sample_build, name, epochs=1, lr=0.1)
    clients = [1, 4]
    for update in method.train(method.shared(), [method.personal(c) for c in clients], clients, 1):
        assert set(update.shared) == names == set(method.shared())
        assert sent(update.shared) == (floats, 4 * floats)
        assert not names & set(update.personal)
        for value in update.shared.values():
            # no private number travels, not even in the memory behind a view
            assert value.untyped_storage().nbytes() == value.nbytes
            for own in update.personal.values():
                assert not np.isin(own.numpy(), value.numpy()).all()
        if name == "fedpgp":
            step = update.personal["u"] @ update.personal["v"]
            assert step.abs().max() > 0
            assert not torch.allclose(update.shared["sigma"], update.shared["sigma"] + step)


@pytest.mark.parametrize("name", PROMPTS)
def test_6_momentum_does_not_pass_from_client_to_client(sample_build: Path, name: str) -> None:
    """Defect 6: one optimiser for all clients. Nor does it pass from round to round within the method."""
    method = bind(sample_build, name, lr=0.1, batch=4)
    method.stack = 3
    shared, own = method.shared(), method.personal
    (alone,) = method.train(shared, [own(5)], [5], 2)
    list(method.train(shared, [own(3)], [3], 1))
    *_, after = method.train(shared, [own(8), own(3), own(5)], [8, 3, 5], 2)
    assert same(alone.shared, after.shared, 1e-6)
    assert same(alone.personal, after.personal, 1e-6)


def test_8_the_proximal_term_has_a_gradient(sample_build: Path) -> None:
    """Defect 8: the penalty is computed on a detached copy."""
    plain, held = bind(sample_build, "promptfl"), bind(sample_build, "fedprox", mu=4.0)
    rows = held.images.rows("train")
    table = torch.arange(rows.of(0).start, rows.of(0).stop)[None]
    batch = gather([table], 0, rows.images, rows.labels)
    shared = held.shared()
    away = torch.linspace(-1, 1, shared["context"].numel()).view_as(shared["context"])
    grads = []
    for method in (plain, held):
        context = (shared["context"] + away)[None].requires_grad_()
        grads.append(torch.autograd.grad(method.loss({"context": context}, batch, shared).sum(), context)[0][0])
    assert torch.allclose(grads[1] - grads[0], 4.0 * away, atol=1e-4)


def test_8_a_strong_pull_keeps_clients_near_the_server(sample_build: Path) -> None:
    def moved(name: str, **settings: float) -> float:
        method = bind(sample_build, name, lr=0.01, epochs=10, batch=4, **settings)
        shared = method.shared()
        (update,) = method.train(shared, [{}], [2], 1)
        return float((update.shared["context"] - shared["context"]).norm())

    assert moved("fedprox", mu=10.0) < 0.5 * moved("promptfl")
    assert moved("fedprox", mu=0.0) == pytest.approx(moved("promptfl"), rel=1e-5)


def test_9_local_goes_on_where_it_was(sample_build: Path) -> None:
    """Defect 9: "local" is reset to the initial weights every round."""
    method = bind(sample_build, "local", lr=0.02)
    (first,) = method.train({}, [method.personal(4)], [4], 1)
    (second,) = method.train({}, [first.personal], [4], 2)
    (again,) = method.train({}, [method.personal(4)], [4], 2)
    assert second.loss < first.loss
    assert not same(second.personal, again.personal, 1e-3)
    _, own, _ = trained(method, 2)
    assert same(own(4), second.personal, 1e-6)


@pytest.mark.parametrize("held_out", [None, "sample-resisc45"])
def test_10_images_stay_with_their_labels_when_a_domain_is_split(domains_build: Path, held_out: str | None) -> None:
    """Defect 10: images and labels are shuffled apart where a domain is split over clients."""
    method = bind(domains_build, "promptfl", held_out=held_out)
    subset = method.context.subset
    seen = set()
    for split in ("train", "test"):
        rows = method.images.rows(split)
        for number, name in enumerate(subset.clients):
            table = [r for r in subset.client(name).read(split).to_pylist() if r["domain"] != held_out]
            seen |= {(row["domain"], name) for row in table}
            mine = rows.of(number)
            assert rows.labels[mine].tolist() == [row["label"] for row in table]
            for row, feature in zip(table, rows.images[mine], strict=True):
                pixels = np.array(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB"))
                wanted = method.clip.encode_images(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0]
                assert torch.allclose(feature, wanted, atol=1e-5)
    names = {domain for domain, _ in seen}
    assert len(names) == (3 if held_out is None else 2)
    assert any(len([1 for domain, _ in seen if domain == name]) > 1 for name in names)


def test_11_prompts_are_in_the_order_of_the_classes(sample_build: Path) -> None:
    """Defect 11: class names pass through a set, and Python orders sets anew in every process."""
    code = (
        "import sys, hashlib\n"
        "from pathlib import Path\n"
        "from prompt_federation import bind, small_clip\n"
        "from fedtrain.models import clip\n"
        "clip.load = lambda spec, device: small_clip()\n"
        "m = bind(Path(sys.argv[1]), 'fedpgp')\n"
        "text = m.shared_text(m.shared(), m.base)\n"
        "print(m.base.names == m.context.subset.classes, hashlib.sha256(text.numpy().tobytes()).hexdigest())"
    )
    method = bind(sample_build, "fedpgp")
    text = method.shared_text(method.shared(), method.base)
    here = hashlib.sha256(text.numpy().tobytes()).hexdigest()
    there = subprocess.run(
        [sys.executable, "-c", code, str(sample_build)],
        cwd=ROOT,
        env=environment(PYTHONHASHSEED="1"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert there.stdout.split() == ["True", here], there.stderr


@pytest.mark.parametrize("name", PROMPTS)
def test_12_extra_prompts_are_no_extra_classes(sample_build: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Defect 12: texts of other prompts become negative classes. Here: cosines times 0 give log C and no more."""
    flat = dataclasses.replace(small_clip(16), scale=0.0)
    monkeypatch.setattr(clip, "load", lambda _spec, _device: flat)
    no = {"fedpgp": {"mu": 0.0}, "fedrsclip": {"dpa_weight": 0.0, "cma_weight": 0.0}}
    no |= {"kgcoop": {"weight": 0.0}, "fedprox": {"mu": 0.0}}
    method = bind(sample_build, name, epochs=1, **no.get(name, {}))
    state = {**method.shared(), **method.personal(0)}
    prompts = {"fedotp": (2,)}.get(name, ())
    assert method.text({k: v[None] for k, v in state.items()}, method.base).shape == (1, *prompts, 21, 32)
    (update,) = method.train(method.shared(), [method.personal(0)], [0], 1)
    assert update.loss == pytest.approx(math.log(21), abs=1e-5)


@pytest.mark.parametrize("name", PROMPTS)
def test_13_seed_0_is_a_seed(sample_build: Path, name: str) -> None:
    """Defect 13: seed 0 is taken for no seed, and the global generator is reseeded on the way."""
    runs = []
    for seed, around in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(around)
        before = torch.get_rng_state()
        method = bind(sample_build, name, seed=seed, lr=0.1, shots=2)
        shared, own, _ = trained(method, 1)
        assert torch.equal(before, torch.get_rng_state())
        runs.append({**shared, **own(2)})
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2], 1e-3)


def test_13_no_two_draws_are_the_same(sample_build: Path) -> None:
    """Defect 13: reseeded within a loop, every epoch, client and tensor gets the same draw."""
    rows = torch.arange(8)
    draws = [schedule(rows, 8, 2, generator(0, "batches", round_, client)) for round_ in (1, 2) for client in (0, 1)]
    orders = [tuple(epoch.tolist()) for table in draws for epoch in table]
    assert len(set(orders)) == len(orders)
    method = bind(sample_build, "fedrsclip")
    assert not same({"x": method.shared()["shared_prompt"]}, {"x": method.personal(0)["private_prompt"]}, 1e-3)


def test_held_out_domains_are_not_trained_on(domains_build: Path) -> None:
    method = bind(domains_build, "fedpgp", held_out="sample-resisc45", shots=None)
    for client, rows in enumerate(method.context.rows):
        assert len(method.trained_rows(client)) == rows
    found = judged(method, 1)
    apart = method.images.rows("test", held_out=True)
    table = method.context.subset.read("test", ["domain"]).column("domain").to_pylist()
    assert len(apart) == table.count("sample-resisc45") > 0
    assert sum(found.rows) == len(table) - len(apart)
