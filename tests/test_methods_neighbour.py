"""``neighbour``: each client's model on the rows of all others, as a plain loop over clients and rows has it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import sampled
from federated_softmax import Softmax
from prompt_federation import bind, trained

from fedrsic_data import recipes
from fedrsic_data.build import pipeline
from fedrsic_data.errors import UsageError
from fedrsic_data.sources.locate import Places
from fedtrain import methods, run
from fedtrain.config import RunConfig, essence, to_json
from fedtrain.methods.base import State
from fedtrain.methods.fedavg import FedAvg
from fedtrain.methods.multilabel import average_precision
from fedtrain.runs.verify import check_run

pytestmark = pytest.mark.usefixtures("random_clip")

TINY: dict[str, Any] = {"epochs": 1, "max_images": 2, "image_size": 64, "batch": 2, "flip": False}


def after_a_round(path: Path, name: str, **settings: Any) -> tuple[Any, Any, Any]:
    """A method that gives the metric, its server's state and its clients' after a round."""
    method = bind(path, name, **settings)
    method.context = dataclasses.replace(method.context, neighbour=True)
    return (method, *trained(method, 1)[:2])


@pytest.mark.parametrize("name", ["fedpgp", "promptfl", "zeroshot"])
def test_it_is_the_accuracy_on_the_rows_of_all_other_clients(sample_build: Path, name: str) -> None:
    if name == "zeroshot":
        method = bind(sample_build, name)
        method.context = dataclasses.replace(method.context, neighbour=True)
        shared, own = method.shared(), method.personal
    else:
        method, shared, own = after_a_round(sample_build, name, lr=0.1, epochs=1)
    rows = method.images.rows("test")
    found = method.evaluate(shared, own, "test").clients["neighbour"]
    for client, value in enumerate(found):
        state = {key: tensor[None] for key, tensor in {**shared, **own(client)}.items()}
        (text,) = method.text(state, method.base)
        others = [i for i in range(len(rows)) if not rows.of(client).start <= i < rows.of(client).stop]
        hits = sum(int((rows.images[i] @ text.T).argmax()) == int(rows.labels[i]) for i in others)
        assert value == pytest.approx(100 * hits / len(others))
    assert (len(set(found)) > 1) or name != "fedpgp"


def test_a_client_that_does_not_train_has_none(sample_build: Path) -> None:
    method, shared, own = after_a_round(sample_build, "fedpgp", lr=0.1, epochs=1)
    rows = (0, *method.context.rows[1:])
    method.context = dataclasses.replace(method.context, rows=rows)
    found = method.evaluate(shared, own, "test").clients["neighbour"]
    assert [math.isnan(value) for value in found] == [not count for count in rows]


def test_a_network_that_all_receive_answers_for_each_client(sample_build: Path) -> None:
    method, shared, own = after_a_round(sample_build, "fedavg", **TINY)
    scores = method.scores(shared, own, "test")
    right = scores["scores"].argmax(1) == scores["targets"].int().argmax(1)
    for client, value in enumerate(method.evaluate(shared, own, "test").clients["neighbour"]):
        assert value == pytest.approx(100 * float(right[scores["owner"] != client].double().mean()))


@pytest.mark.parametrize("name", ["fedpgp", "fedavg"])
def test_on_multi_label_data_it_is_the_mean_average_precision(tmp_path: Path, name: str) -> None:
    data = recipes.override(recipes.load("flair"), sample=True, sets=["sample.users=10", "sample.size=32"])
    built = pipeline.build(pipeline.prepare(recipes.from_json(data, "test"), Places(offline=True)), tmp_path / "flair")
    method, shared, own = after_a_round(built.path, name, **(TINY if name == "fedavg" else {"epochs": 1, "lr": 0.1}))
    found = method.evaluate(shared, own, "test").clients["neighbour"]
    for client, value in enumerate(found):
        if name == "fedavg":
            scores = method.scores(shared, own, "test")
            answers, labels, owner = scores["scores"], scores["targets"], scores["owner"]
        else:
            rows = method.images.rows("test")
            state = {**shared, **own(client)}
            (text,) = method.text({key: tensor[None] for key, tensor in state.items()}, method.base)
            answers = (method.clip.scale * rows.images @ text.T + state["bias"]).sigmoid()
            labels, owner = rows.labels == 1, torch.repeat_interleave(torch.tensor(rows.counts()))
        wanted = 100 * float(average_precision(answers[owner != client], labels[owner != client]).nanmean())
        assert value == pytest.approx(wanted, abs=1e-3, nan_ok=True) or not method.context.rows[client]


def test_a_run_has_it_when_requested_and_verifies(sample_build: Path, tmp_path: Path) -> None:
    done = run.train(
        RunConfig(
            "local",
            str(sample_build),
            "fed-ucmerced",
            rounds=1,
            device="cpu",
            neighbour=True,
            method_settings={"epochs": 1},
        ),
        tmp_path / "run",
    )
    assert {f"test/neighbour/{s}" for s in ("mean", "weighted", "worst_decile", "std")} <= done.data["figures"].keys()
    assert check_run(tmp_path / "run")[1] == []


def test_runs_without_it_are_the_runs_that_they_were() -> None:
    plain = to_json(RunConfig("local", "data", "subset"))
    assert "neighbour" not in essence(plain)
    assert essence({**plain, "neighbour": True})["neighbour"] is True
    assert essence({key: value for key, value in plain.items() if key != "neighbour"}) == essence(plain)


def test_where_it_cannot_be_had_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(methods.METHODS, "softmax", Softmax)
    built = sampled(tmp_path / "fed", "clients=2", "sample.per_class=2").path
    with pytest.raises(UsageError, match="neighbour=true: softmax does not evaluate clients on rows of others"):
        run.train(RunConfig("softmax", str(built), "fed-ucmerced", neighbour=True), tmp_path / "run")

    class Own(FedAvg):
        """Sends each client its own network."""

        def sent_to(self, client: int, server: State) -> State:
            return {name: value + client for name, value in server.items()}

    monkeypatch.setitem(methods.METHODS, "own", Own)
    with pytest.raises(UsageError, match="neighbour=true: evaluates one network that all clients receive"):
        run.train(RunConfig("own", str(built), "fed-ucmerced", neighbour=True), tmp_path / "run")
