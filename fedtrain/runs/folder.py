"""A finished run, read from its folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrsic_data.errors import OutputError
from fedtrain.runs import seal
from fedtrain.runs.files import (
    CONFIG,
    RESULT,
    is_number,
    parsed,
    read,
)

FORMAT = 1
"""Version of both files."""


def _text(value: object) -> bool:
    return isinstance(value, str)


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _object(value: object) -> bool:
    return isinstance(value, dict)


def _count(value: object) -> bool:
    return isinstance(value, int) and is_number(value, 0)


def _figures(value: object) -> bool:
    return isinstance(value, dict) and all(one is None or is_number(one) for one in value.values())


def _clients(value: object) -> bool:
    """Split -> metric -> client -> value."""
    return isinstance(value, dict) and all(
        isinstance(split, dict) and all(map(_figures, split.values())) for split in value.values()
    )


def _privacy(value: object) -> bool:
    """Privacy results, in runs with noise."""
    spent = {} if value is None else value
    if not isinstance(spent, dict) or not spent:
        return value is None or value == {}
    return _text(spent.get("kind")) and (spent.get("epsilon") is None or is_number(spent["epsilon"], 0))


def _trace(value: object) -> bool:
    """Where the time of a run went, in runs that were profiled."""
    if not isinstance(value, dict):
        return False
    phases = [value.get(name) for name in ("seconds", "beside")]
    return all(map(_figures, phases)) and _figures({k: v for k, v in value.items() if not isinstance(v, dict)})


_Fields = Mapping[str, Callable[[object], bool]]

_FACTS: _Fields = {
    **dict.fromkeys(("run", "group", "config.method", "config.subset", "config.manifest"), _text),
    **dict.fromkeys(("dataset.name", "dataset.digest"), _text),
    **dict.fromkeys(("config.seed", "dataset.seed"), _count),
    "config.dp": _object,
    "config.method_settings": _object,
    "config.method_settings.labels": lambda value: value is None or isinstance(value, str),
    "dataset.sample": lambda value: isinstance(value, bool),
    "dataset.sources": _texts,
    "dataset.titles": lambda value: value is None or (isinstance(value, dict) and all(map(_text, value.values()))),
    "dataset.partition": lambda value: value is None or _text(value),
    "versions": _object,
}
_DATA: _Fields = {
    "seal": lambda value: value is None or _text(value),
    "files": lambda value: value is None or _object(value),
    "privacy": _privacy,
    "trace": lambda value: value is None or _trace(value),
    "rounds": _count,
    "seconds": lambda value: is_number(value, 0),
    "figures": _figures,
    "clients": _clients,
    "clients_without_training_rows": _texts,
    "counters.client_floats": _count,
    "counters.client_bytes": _count,
    **{f"counters.{name}": _count for name in ("updates", "refused", "dropped", "floats", "bytes")},
}
"""Fields that are read from a finished run, and their types."""


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        folder: Its folder.
        facts: Content of ``config.json``: the resolved config, the dataset, digests of both.
        data: Content of ``result.json``: metrics, per-client metrics, counters.
        trained: Whether it was trained just now, and did not exist before.
    """

    folder: Path
    facts: dict[str, Any]
    data: dict[str, Any]
    trained: bool = False

    @property
    def sealed(self) -> bool:
        """Whether it has a seal, which holds; see ``load``."""
        return seal.is_sealed(self.data)


def load(folder: Path, *, proved: bool = True) -> Result:
    """A finished run.

    Args:
        folder: Its folder.
        proved: Compare it with its seal, and with recomputed values.

    Raises:
        OutputError: It holds no run, or one that is damaged or not finished, or was changed since.
    """
    if not (folder / CONFIG).is_file():
        raise OutputError(f"{folder}: holds no run; give folders that fedkit train wrote")
    facts = content(folder / CONFIG)
    if not (folder / RESULT).is_file():
        raise OutputError(f"{folder}: is not finished; run the same fedkit train again to resume")
    data = content(folder / RESULT)
    for name, held, fields in ((CONFIG, facts, _FACTS), (RESULT, data, _DATA)):
        for field, fits in fields.items():
            if not fits(value_at(held, field)):
                raise OutputError(f"{folder / name}: is damaged ({field}); start the run anew with --overwrite")
    for name, words in seal.problems(folder, facts, data) if proved else ():
        raise OutputError(f"{folder / name}: is damaged ({words}); start the run anew with --overwrite")
    return Result(folder, facts, data)


def value_at(data: Any, field: str) -> Any:
    """Value of a nested field; None if it is absent."""
    for key in field.split("."):
        data = data.get(key) if isinstance(data, dict) else None
    return data


def content(path: Path) -> dict[str, Any]:
    """The JSON object of ``config.json`` or ``result.json``.

    Raises:
        OutputError: It cannot be read, or is no such file.
    """
    try:
        data = parsed(read(path))
    except ValueError as error:
        raise OutputError(f"{path}: cannot be read ({error}); start the run anew with --overwrite") from None
    if not isinstance(data, dict) or data.get("fedkit") != FORMAT:
        raise OutputError(f"{path}: was not written by this version of fedkit; choose another folder")
    return data
