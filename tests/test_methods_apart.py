"""Evaluation of a federation of several datasets: each is judged in its own label space."""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from apart_builds import apart
from PIL import Image
from prompt_federation import bind, plain_texts, plain_words, trained

from fedrsic_data.errors import UsageError
from fedtrain import run
from fedtrain.methods.base import State
from fedtrain.metrics import harmonic

pytestmark = pytest.mark.usefixtures("random_clip")

METHODS = ("promptfl", "fedpgp", "local", "fedtpg", "zeroshot")


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clients of each dataset; UC Merced has 11 base classes, OPTIMAL-31 twelve."""
    out = tmp_path_factory.mktemp("apart") / "fed"
    return apart(out, "base_to_novel=true", "classes_per_client=5").path


def bound(path: Path, name: str, **more: Any) -> Any:
    settings: dict[str, Any] = {} if name == "zeroshot" else {"length": 4, "lr": 0.5, "batch": 8, "epochs": 1}
    settings |= {"rank": 2} if name == "fedpgp" else {"heads": 2, "lr": 0.05} if name == "fedtpg" else {}
    return bind(path, name, **settings, **more)


class Plain:
    """Accuracy of a classifier on rows, from their bytes, among the classes of one dataset that it is asked about."""

    def __init__(self, method: Any, split: str) -> None:
        self.method, self.subset = method, method.context.subset
        self.rows = []
        for number, client in enumerate(self.subset.clients):
            for row in self.subset.client(client).read(split).to_pylist():
                pixels = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB"))
                feature = method.clip.encode_images(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None])[0]
                self.rows.append((number, self.subset.classes[row["label"]], feature))

    def text(self, state: State, names: Sequence[str]) -> torch.Tensor:
        words = [name.split("/", 1)[1] for name in names]
        if not state:
            return plain_words(self.method, words, "a photo of a {}.")
        if "queries" in state:
            one = {name: value[None] for name, value in state.items()}
            (context,) = self.method.generated(one, plain_words(self.method, words, "{}"))
        else:
            context = state["sigma"] + state["u"] @ state["v"] if "u" in state else state["context"]
        return plain_texts(self.method, context, words)

    def accuracy(self, state: State, names: Sequence[str], source: str, client: int | None = None) -> float:
        """On the rows of a source, of one client or of all; NaN without rows."""
        with torch.no_grad():
            text = self.text(state, names)
        hits = [
            names[int((text @ feature).argmax())] == name
            for owner, name, feature in self.rows
            if name.startswith(f"{source}/") and client in (None, owner)
        ]
        return 100 * sum(hits) / len(hits) if hits else float("nan")


@pytest.mark.parametrize("name", METHODS)
def test_every_dataset_is_judged_among_its_own_classes(build: Path, name: str) -> None:
    """Metrics beside those of encoding everything anew, text and images."""
    method = bound(build, name)
    shared, own, _ = trained(method, 1) if name != "zeroshot" else ({}, lambda _: {}, [])
    found = method.evaluate(shared, own, "test")
    subset, test, unseen = method.context.subset, Plain(method, "test"), Plain(method, "novel")
    bases = {
        source: [c for c in subset.classes if c.startswith(f"{source}/") and c not in subset.entry.novel]
        for source in ("ucmerced", "optimal31")
    }
    novels = {source: [c for c in subset.entry.novel if c.startswith(f"{source}/")] for source in bases}
    assert [len(names) for names in (*bases.values(), *novels.values())] == [11, 12, 10, 12]
    table = [row for row in subset.client_table.to_pylist() if row["split"] == "train"]
    for client, row in enumerate(table):
        state, held = {**shared, **own(client)}, [subset.classes[label] for label in row["labels"]]
        (source,) = {name.split("/")[0] for name in held}
        assert found.clients["local"][client] == pytest.approx(test.accuracy(state, held, source, client))
        for other, names in bases.items():
            if other == source:
                assert found.clients[f"local/{source}"][client] == found.clients["local"][client]
            else:
                assert np.isnan(found.clients[f"local/{other}"][client])
            assert found.clients[f"base/{other}"][client] == pytest.approx(test.accuracy(state, names, other))
            wanted = unseen.accuracy(state, novels[other], other)
            assert found.clients[f"novel/{other}"][client] == pytest.approx(wanted)
        for split in ("base", "novel"):
            each = [found.clients[f"{split}/{source}"][client] for source in bases]
            assert found.clients[split][client] == pytest.approx(statistics.fmean(each))
    by_source = [statistics.fmean(v for v in found.clients[f"local/{s}"] if v == v) for s in bases]
    assert found.metrics["local_datasets"] == pytest.approx(statistics.fmean(by_source))
    base, new = (statistics.fmean(found.clients[split]) for split in ("base", "novel"))
    assert found.metrics["hm_base_novel"] == pytest.approx(harmonic(base, new))
    assert sum(found.rows) == len(test.rows)
    if name in ("promptfl", "fedtpg"):
        rights = {
            s: test.accuracy(shared, names, s) * sum(n.startswith(s) for _, n, _ in test.rows)
            for s, names in bases.items()
        }
        assert found.metrics["shared"] == pytest.approx(sum(rights.values()) / len(test.rows))
    assert ("shared" in found.metrics) == (name not in ("local",))
    alone = method.evaluate(shared, own, "novel")
    assert alone.clients["novel"] == found.clients["novel"]
    assert set(alone.clients) == {"novel", "novel/ucmerced", "novel/optimal31"}


def test_texts_have_the_names_of_classes_without_their_source(build: Path) -> None:
    method = bound(build, "promptfl")
    assert method.base.names[0].startswith("ucmerced/")
    words = [name.split("/", 1)[1] for name in method.base.names]
    assert torch.allclose(
        method.base.fixed("a photo of a {}."), plain_words(method, words, "a photo of a {}."), atol=1e-5
    )


def test_a_dataset_that_no_client_trains_on_is_judged_among_its_own_classes(build: Path) -> None:
    """FedTPG's other protocol: train on some datasets, evaluate on another."""
    method = bound(build, "promptfl")
    domains = sorted({d for row in method.context.subset.client_table.to_pylist() for d in row["domains"]})
    (source,) = [domain for domain in domains if "optimal" in domain]
    method = bind(build, "promptfl", length=4, lr=0.5, epochs=1, held_out=source)
    shared, own, _ = trained(method, 1)
    found, test = method.evaluate(shared, own, "test"), Plain(method, "test")
    names = [name for name in method.base.names if name.startswith("optimal31/")]
    assert found.metrics["held_out"] == pytest.approx(test.accuracy(shared, names, "optimal31"))
    assert found.metrics["held_out_local"] == pytest.approx(found.metrics["held_out"])
    assert np.isnan(found.clients["local/optimal31"]).all()


def test_figures_of_a_run_have_every_dataset(build: Path, tmp_path: Path) -> None:
    (config,) = run.configs("fedtpg", build, [], ["rounds=2", "lr=0.05", "device=cpu", "batch=8", "heads=2"])
    figures = run.train(config, tmp_path / "run").data["figures"]
    for metric in ("local", "base", "novel"):
        for source in ("", "/ucmerced", "/optimal31"):
            assert 0 <= figures[f"test/{metric}{source}/mean"] <= 100
    assert 0 <= figures["test/local_datasets"] <= 100


@pytest.mark.parametrize("name", ["fedavg", "fedlgt"])
def test_networks_are_refused(tmp_path: Path, name: str) -> None:
    path = apart(tmp_path / "fed", "sample.per_class=2", "splits.test=0.5").path
    with pytest.raises(UsageError, match="classes=apart: each dataset is evaluated among its own classes"):
        bind(path, name)
