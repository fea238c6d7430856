"""The seal of a finished run: digests that tie its metrics to its rounds, its config and, through that, its dataset."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedrsic_data.files.atomic import file_digest
from fedtrain import metrics
from fedtrain.config import digest, identity_of
from fedtrain.runs.files import CHECKPOINT, CONFIG, METRICS, RESULT, STATE, parsed, read

SEAL, FILES = "seal", "files"
SERVER = f"{CHECKPOINT}/{STATE}"
_LATER = ("/std", "/CM")  # ends of the names of metrics that 0.1.0 did not have
_CLOSE = 0.01  # percentage points that judging a model a second time may differ by


def sealed(folder: Path, data: Mapping[str, Any]) -> dict[str, Any]:
    """Content of ``result.json``, with the digests of the run's other files and a digest of itself.

    Args:
        folder: The run's; its config, rounds and checkpoint are on disk.
        data: What the run came to.
    """
    files = {name: found for name in (CONFIG, METRICS, SERVER) if (found := _digest(folder / name)) is not None}
    whole = {**data, FILES: files}
    return {**whole, SEAL: digest(whole)}


def is_sealed(data: Mapping[str, Any]) -> bool:
    """Whether a result has a seal; those of fedkit 0.1.0 have none."""
    return SEAL in data


def problems(folder: Path, facts: Mapping[str, Any], data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Differences of a finished run from its seal: a file, and a description.

    What can be counted again is counted again, so that a seal over invented metrics does not help them.

    Args:
        folder: The run's.
        facts: What ``config.json`` holds, of the right shape.
        data: What ``result.json`` holds, of the right shape.
    """
    if is_sealed(data):
        if data[SEAL] != digest({key: value for key, value in data.items() if key != SEAL}):
            yield RESULT, "its seal differs"
        for name in (CONFIG, METRICS):
            if _digest(folder / name) != _told(data, name):
                yield name, "its digest differs from the sealed one"
    if facts["run"] != identity_of(facts["config"], facts["dataset"]["digest"], facts.get("weights")):
        yield CONFIG, "run is not the digest of config and dataset"
    if facts["config"].get("rounds") != data["rounds"]:
        yield RESULT, "rounds are not those of the config"
    if sorted(data["clients"]) != sorted(facts["config"].get("splits") or ()):
        yield RESULT, "clients are not of the splits of the config"
    yield from ((RESULT, words) for words in _summaries(data))
    if data["rounds"]:
        yield from ((METRICS, words) for words in _last_round(folder / METRICS, facts["config"], data))


def server_state(folder: Path, data: Mapping[str, Any]) -> bool | None:
    """Whether the server's state is the one that was judged; None if it is not there, or was not sealed."""
    told, found = _told(data, SERVER), _digest(folder / SERVER)
    return None if told is None or found is None else told == found


def _digest(path: Path) -> str | None:
    return file_digest(path) if path.is_file() else None


def _told(data: Mapping[str, Any], name: str) -> Any:
    files = data.get(FILES)
    return files.get(name) if isinstance(files, dict) else None


def _summaries(data: Mapping[str, Any]) -> Iterator[str]:
    """Metrics that are means over clients, against the metrics of the clients."""
    for split, held in data["clients"].items():
        rows = held.get("rows")
        if not rows:
            continue
        if not all(isinstance(count, int) and count >= 0 for count in rows.values()):
            yield f"clients.{split}.rows"
            return
        for name, of_client in held.items():
            if name == "rows":
                continue
            if of_client.keys() != rows.keys():
                yield f"clients.{split}.{name} is of other clients than rows"
                continue
            values = [math.nan if value is None else float(value) for value in of_client.values()]
            for figure, value in metrics.over_clients(name, values, list(rows.values())).items():
                told = f"{split}/{figure}"
                if _was_there(told, data["figures"]) and not _equal(
                    data["figures"].get(told), metrics.finite_or_none(value)
                ):
                    yield f"figures.{told} is not what its clients give"


def _last_round(path: Path, config: Mapping[str, Any], data: Mapping[str, Any]) -> Iterator[str]:
    """The last line of ``metrics.jsonl`` against the result."""
    if not path.is_file():
        yield "it is gone"
        return
    try:
        line = parsed((read(path).splitlines() or ["null"])[-1])
    except ValueError:
        line = None
    if not isinstance(line, dict):
        yield "its last line"
        return
    counted = [line.get(key) for key in ("round", "floats_sent", "bytes_sent")]
    if counted != [data["rounds"], data["counters"]["floats"], data["counters"]["bytes"]]:
        yield "its last line is not of the last round"
    figures = line.get("figures")
    # elsewhere, a model that is judged a second time after an interruption may fare otherwise
    if (data.get("engine"), config.get("device")) == ("local", "cpu") and isinstance(figures, dict):
        for name, value in data["figures"].items():
            if _was_there(name, figures) and not _equal(figures.get(name), value, _CLOSE):
                yield f"figures.{name} of its last line is not that of {RESULT}"


def _was_there(name: str, figures: Mapping[str, Any]) -> bool:
    """Whether a metric should be among others: one that 0.1.0 did not have may lack in what it left."""
    return name in figures or not name.endswith(_LATER)


def _equal(one: Any, other: float | None, most: float = 1e-9) -> bool:
    if one is None or other is None:
        return one is other
    return isinstance(one, int | float) and math.isclose(one, other, rel_tol=1e-9, abs_tol=most)
