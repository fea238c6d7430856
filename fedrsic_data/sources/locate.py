"""Locate a source's files: given by name, searched for, cached, or downloaded."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedrsic_data.errors import DownloadError, SourceError, UsageError
from fedrsic_data.files.cache import cache_folder
from fedrsic_data.raw.containers import reading
from fedrsic_data.raw.download import Progress, fetch
from fedrsic_data.raw.remote import RemoteFile
from fedrsic_data.settings import local
from fedrsic_data.sources import mirror
from fedrsic_data.sources.base import HubMirror, Relabelled, Source
from fedrsic_data.sources.classfolders import folders_below, plain

_DEPTH = 3


@dataclass(frozen=True)
class Places:
    """Places of sources given by the user.

    Attributes:
        folder: ``--sources DIR``: searched for folders and archives by name.
        given: ``--source NAME=PATH`` or ``NAME=hf://USER/REPO@REVISION``.
        offline: Never touch the network.
        cache: Folder of downloads; None for ``cache_folder()``.
    """

    folder: Path | None = None
    given: Mapping[str, str] = field(default_factory=dict)
    offline: bool = False
    cache: Path | None = None


def locate(source: Source, places: Places, progress: Callable[[str], Progress] | None = None) -> Path:
    """The folder or archive of a source, or the folder of its archives; download it if it is not found.

    Looked for in this order: ``places.given``, the source's own settings, ``places.folder``, ``$FEDKIT_SOURCES``
    (folders separated as in ``$PATH``), the cache, the official download.

    Args:
        source: The source.
        places: Where to look.
        progress: Makes a progress callback for a file name; None for silence.

    Raises:
        SourceError: It is not at the given place, or cannot be downloaded.
    """
    found = find(source, places)
    if found is not None:
        return found
    if places.given.get(source.name, "").startswith("hf://"):
        return mirror.mirror(_parse_hub(places.given[source.name]), _cached(source, places), offline=places.offline)
    return _download(source, places, progress)


def images(source: Relabelled, labels: Path, places: Places, progress: Callable[[str], Progress] | None = None) -> Path:
    """The images of a source that labels those of another one: beside its labels, or where the other one is found.

    Args:
        source: The source.
        labels: Its own place, from ``locate``.
        places: Where to look.
        progress: As for ``locate``.

    Raises:
        SourceError: They are not at the given place, or cannot be downloaded.
    """
    origin = source.images_of
    if origin.name not in places.given and labels.is_dir():
        with reading(labels):
            if any(plain(folder.name) in map(plain, origin.classes) for folder in folders_below(labels)):
                return labels
            if (path := _search(origin, labels)) is not None:
                return path
    return locate(origin, places, progress)


def find(source: Source, places: Places) -> Path | None:
    """Like ``locate``, but only locally; None where a download would be next."""
    given = places.given.get(source.name)
    if given is not None and given.startswith("hf://"):
        return None
    if given is not None:
        return _given(given, f"--source {source.name}={given}")
    if (place := getattr(source.settings, "path", None)) is not None:  # a person's own data
        return _given(place, f"sources.{source.name}.path={place}")
    folders = []
    if places.folder is not None:
        local("--sources", places.folder)
        folders = [places.folder]
    for folder in folders + [Path(p) for p in os.environ.get("FEDKIT_SOURCES", "").split(os.pathsep) if p]:
        with reading(folder):
            if not folder.is_dir():
                raise SourceError(f"sources folder {folder}: {'not a folder' if folder.exists() else 'does not exist'}")
            if (path := _search(source, folder)) is not None:
                return path
    return None


def check_names(given: Mapping[str, str], known: Collection[str]) -> None:
    """Refuses a ``--source`` for a source that does not exist.

    Raises:
        UsageError: An unknown name.
    """
    for name in given:
        if name not in known:
            raise UsageError(f"--source {name}=...: unknown source; known: {', '.join(known)}")


def _given(text: str, where: str) -> Path:
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise SourceError(f"{where}: there is no such home folder; write the whole path") from None
    with reading(path):
        if not path.exists():
            raise SourceError(f"{where}: does not exist")
    return path


def _search(source: Source, folder: Path) -> Path | None:
    """The one place below ``folder`` that goes by one of the source's names or has its archives, shallowest first."""
    level = [folder]
    for _ in range(_DEPTH + 1):
        hits = [p for p in level if _matches(source, p)]
        folders, archives = [p for p in hits if p.is_dir()], [p for p in hits if p.is_file()]
        best = folders or archives or _official(source, level)
        if len(best) > 1:
            raise SourceError(
                f"sources folder {folder}: {best[0]} and {best[1]} could both be {source.name}; "
                f"say which with --source {source.name}=PATH"
            )
        if best:
            return best[0]
        level = [p for d in level if d.is_dir() for p in sorted(d.iterdir()) if not p.name.startswith(".")]
    return None


def _official(source: Source, level: Sequence[Path]) -> list[Path]:
    """The official archive among some files, or the folders of those that are among them where there are several."""
    names = {remote.filename.lower() for remote in source.facts.downloads}
    here = [path for path in level if path.name.lower() in names and path.is_file()]
    return here if len(names) < 2 else list(dict.fromkeys(path.parent for path in here))


def _matches(source: Source, path: Path) -> bool:
    name = path.stem if path.suffix.lower() == ".zip" else path.name
    return plain(name) in source.aliases and (path.is_dir() or path.suffix.lower() == ".zip")


def _cached(source: Source, places: Places) -> Path:
    return (places.cache or cache_folder()) / "sources" / source.name


def _download(source: Source, places: Places, progress: Callable[[str], Progress] | None) -> Path:
    facts, cache = source.facts, _cached(source, places)
    by_hand = f"place it by hand and give --source {source.name}=PATH"
    if facts.downloads:
        archives: dict[str, list[RemoteFile]] = {}
        for remote in facts.downloads:
            archives.setdefault(remote.filename, []).append(remote)
        with reading(cache):
            if places.offline and not all((cache / name).exists() for name in archives):
                raise SourceError(f"{source.name}: not found on this machine and --offline is set; {by_hand}")
            for name, mirrors in archives.items():
                path = fetch(mirrors, cache, progress=progress(name) if progress else None)
        return path if len(archives) == 1 else cache
    if facts.hub is None:
        raise SourceError(f"{source.name}: not found on this machine and cannot be downloaded; {by_hand}")
    try:
        return mirror.mirror(facts.hub, cache, offline=places.offline)
    except DownloadError as error:
        raise DownloadError(f"{source.name}: {error}; {by_hand} (expected {facts.layout})") from None


def _parse_hub(text: str) -> HubMirror:
    match = re.fullmatch(r"hf://(?:datasets/)?([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", text)
    if match is None:
        raise UsageError(f"{text!r} should look like hf://USER/DATASET or hf://USER/DATASET@COMMIT")
    return HubMirror(match[1], match[2])
