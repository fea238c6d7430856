"""The configs in the head of a dataset's README: which files are of which config and split, as ``datasets`` reads it.

``configs`` in the YAML of ``README.md``, or of ``.huggingface.yaml``, has for each config its name and ``data_files``,
which is a pattern, a list of patterns, or a list of ``split`` and ``path``; or ``data_dir``, a folder in which names
say the splits.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrsic_data.errors import SourceError, UsageError
from fedrsic_data.settings import suggest

_NAME, _ALONE = "README.md", ".huggingface.yaml"
_HEAD = re.compile(r"\s*---[\r\n]+(.*?)[\r\n]+---(?:\r?\n|\Z)", re.DOTALL)
_SPLIT = re.compile(r"\w+(\.\w+)*")
_USED = ("config_name", "data_files", "data_dir", "default")
_MOST = 1 << 20  # bytes of a README that are looked at


@dataclass(frozen=True)
class Config:
    """A config.

    Attributes:
        name: Its name.
        patterns: Split -> patterns of its files; None: all files below ``folder``, whose names say the splits.
        folder: From the dataset's folder; empty: that itself.
        default: Whether the README calls it the default one.
        others: What else it says, which is for ``datasets``.
    """

    name: str
    patterns: Mapping[str, tuple[str, ...]] | None
    folder: str
    default: bool
    others: tuple[str, ...]

    def splits(self, paths: Sequence[str], root: Path, what: str) -> list[str | None]:
        """The split of each file, None of those that are not in the config.

        Args:
            paths: Paths from the dataset's folder, with ``/``.
            root: The folder, for messages.
            what: What the files are, for messages (``"Parquet files"``).

        Raises:
            SourceError: A split has no files, or a file is in two splits.
        """
        found: list[str | None] = [None] * len(paths)
        for split, patterns in (self.patterns or {}).items():
            match = re.compile("|".join(_regex(f"{self.folder}/{p}" if self.folder else p, root) for p in patterns))
            here = [i for i, path in enumerate(paths) if match.fullmatch(path)]
            if not here:
                raise SourceError(
                    f"{root}: {_NAME}: no {what} are in split {split} of config {self.name!r} ({', '.join(patterns)})"
                )
            for i in here:
                if found[i] is not None:
                    raise SourceError(
                        f"{root}: {_NAME}: {paths[i]} is in two splits of config {self.name!r}, {found[i]} and {split}"
                    )
                found[i] = split
        return found

    def within(self, path: str) -> bool:
        """Whether a path is below its folder."""
        return not self.folder or path.startswith(self.folder + "/")


def configs(root: Path) -> tuple[Config, ...]:
    """The configs of a dataset's folder; none where no README says any.

    Raises:
        SourceError: The YAML cannot be read, or ``datasets`` would refuse it.
    """
    said = _yaml(root / _NAME) | _yaml(root / _ALONE)
    listed = said.get("configs")
    if not listed:
        return ()
    if not isinstance(listed, list):
        raise SourceError(f"{root / _NAME}: configs should be a list, each with config_name and data_files")
    found = tuple(_config(root, config) for config in listed)
    for i, config in enumerate(found):
        if config.name in {other.name for other in found[:i]}:
            raise SourceError(f"{root / _NAME}: two configs are called {config.name!r}; rename one")
    return found


def choose(found: Sequence[Config], wanted: str | None, root: Path, where: str) -> Config | None:
    """The config that is read; None where there is none.

    Args:
        found: From ``configs``.
        wanted: Its name; None: the only one.
        root: The dataset's folder, for messages.
        where: Place of the name, for messages.

    Raises:
        SourceError: There are several, and nobody says which.
        UsageError: There is none of this name.
    """
    by_name = {config.name: config for config in found}
    if wanted is not None:
        if wanted not in by_name:
            raise UsageError(f"{where}: config={wanted!r} is no config of {root}{suggest(wanted, by_name)}")
        return by_name[wanted]
    if len(found) > 1:
        names = ", ".join(f"{config.name} (the default)" if config.default else config.name for config in found)
        raise SourceError(f"{root}: {several(names, where)}")
    return found[0] if found else None


def several(names: str, where: str) -> str:
    """The message where a dataset has several configs and nobody says which."""
    return f"holds several configs: {names}; say which with {where}.config (fedkit new --config NAME)"


def note(config: Config, taken: int, of: int, what: str) -> tuple[str, ...]:
    """Report what was read of a config, one line each."""
    lines = [f"config {config.name} of {_NAME}: {taken:,} of {of:,} {what}"]
    if config.others:
        lines.append(f"config {config.name} also sets {', '.join(config.others)}, which only load_dataset uses")
    return tuple(lines)


def _yaml(path: Path) -> dict[str, Any]:
    """The YAML of a file, or of the head of a README; nothing where there is none."""
    if not path.is_file():
        return {}
    import yaml

    with path.open("rb") as file:
        text = file.read(_MOST).decode("utf-8-sig", "replace")
    if path.name == _NAME:
        head = _HEAD.match(text)
        text = head[1] if head else ""
    try:
        said = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        at = getattr(error, "problem_mark", None)
        line = f" (line {at.line + (2 if path.name == _NAME else 1)})" if at else ""
        raise SourceError(f"{path}: the YAML cannot be read{line}; fix it, or remove it") from None
    return said if isinstance(said, dict) else {}


def _config(root: Path, said: Any) -> Config:
    where = root / _NAME
    name = said.get("config_name") if isinstance(said, dict) else None
    if not isinstance(name, str) or not name:
        raise SourceError(f"{where}: a config has no config_name; give it one")
    folder, files = said.get("data_dir", ""), said.get("data_files")
    folder = "" if folder is None else folder
    if not isinstance(folder, str):
        raise SourceError(f"{where}: data_dir of config {name!r} should be a folder of the dataset")
    folder = folder.removeprefix("./").strip("/")
    _inside(folder, root)
    others = tuple(key for key in map(str, said) if key not in _USED)
    return Config(
        name, None if files is None else _files(where, name, files), folder, said.get("default") is True, others
    )


def _files(where: Path, name: str, files: Any) -> dict[str, tuple[str, ...]]:
    if isinstance(files, str):
        return {"train": (files,)}
    if isinstance(files, list) and files and all(isinstance(pattern, str) for pattern in files):
        return {"train": tuple(files)}
    found: dict[str, tuple[str, ...]] = {}
    for entry in files if isinstance(files, list) and files else [files]:
        if not (isinstance(entry, dict) and set(entry) == {"split", "path"} and _is_split(entry["split"])):
            words = (
                "a pattern, a list of patterns, or a list of split and path, and a split of letters, digits, _ and ."
            )
            raise SourceError(f"{where}: data_files of config {name!r} should be {words}, not {reprlib.repr(entry)}")
        paths = entry["path"] if isinstance(entry["path"], list) else [entry["path"]]
        if not paths or not all(isinstance(path, str) and path for path in paths):
            raise SourceError(f"{where}: split {entry['split']} of config {name!r} has no path; give it one")
        if entry["split"] in found:
            raise SourceError(f"{where}: config {name!r} has split {entry['split']} twice; join the two")
        found[entry["split"]] = tuple(paths)
    return found


def _is_split(name: Any) -> bool:
    return isinstance(name, str) and _SPLIT.fullmatch(name) is not None


def _inside(path: str, root: Path) -> None:
    if "://" in path or "::" in path or path.startswith(("/", "~")) or ".." in path.split("/"):
        raise SourceError(f"{root / _NAME}: {path!r} is not a path in the dataset's folder; only such files are read")


def _regex(pattern: str, root: Path) -> str:
    """A regular expression for a glob pattern, as fsspec has them: only ``**`` matches slashes."""
    _inside(pattern, root)
    parts = pattern.removeprefix("./").split("/")
    whole = []
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        if part == "**":
            whole.append(".*" if last else "(?:.+/)?")
        elif "**" in part:
            raise SourceError(f"{root / _NAME}: pattern {pattern!r}: ** should be a whole part of a path")
        else:
            whole.append((_part(part) if part != "*" else "[^/]+") + ("" if last else "/"))
    return f"(?s:{''.join(whole)})"


def _part(part: str) -> str:
    """The same for a pattern without slashes."""
    pieces = re.split(r"(\*|\?|\[!?\]?[^\]]*\])", part)
    found = []
    for piece in pieces:
        if piece in ("*", "?"):
            found.append("[^/]*" if piece == "*" else "[^/]")
        elif piece.startswith("[") and piece.endswith("]") and len(piece) > 2:
            inner = re.sub(r"([\\\[\]&~|^])", r"\\\1", piece[1:-1].removeprefix("!"))
            found.append(f"[{'^' if piece[1] == '!' else ''}{inner}]")
        else:
            found.append(re.escape(piece))
    return "".join(found)
