"""Runs of the small softmax method: their config, what they logged, what they come to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from federated_softmax import Softmax

from fedtrain.config import RunConfig, changed, identity_of
from fedtrain.runs import seal
from fedtrain.runs.state import load_state


def config(manifest: Path, *sets: str) -> RunConfig:
    return changed(RunConfig("softmax", str(manifest), "fed-ucmerced"), ["device=cpu", *sets], Softmax.Settings)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def final(folder: Path) -> tuple[dict[str, Any], bytes, dict[str, Any]]:
    """What a run comes to: result without clock and seal, metrics, tensors of the server and of every client."""
    result = json.loads((folder / "result.json").read_text())
    for key in ("seconds", "seal", "files"):  # the seal knows the clock, and where the dataset lies
        del result[key]
    paths = sorted((folder / "checkpoint").rglob("*.safetensors"))
    tensors = {p.name: {k: v.tolist() for k, v in load_state(p, torch.device("cpu"))[0].items()} for p in paths}
    return result, (folder / "metrics.jsonl").read_bytes(), tensors


def resealed_run(folder: Path) -> None:
    """Makes the digests of a run agree with what was edited, as somebody does who wants it to be believed."""
    facts, data = (json.loads((folder / name).read_text()) for name in ("config.json", "result.json"))
    facts["run"] = identity_of(facts["config"], facts["dataset"]["digest"], facts["weights"])
    (folder / "config.json").write_text(json.dumps(facts))
    del data["seal"], data["files"]
    (folder / "result.json").write_text(json.dumps(seal.sealed(folder, data)))
