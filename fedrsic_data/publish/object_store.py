"""Builds whose output is no local folder: ``s3://``, ``gs://``, ``memory://`` and what else pyarrow or fsspec know.

A dataset is built in a folder of this machine first, which is what resumes after an interruption, and then copied
file by file. Each file is written under another name and moved; the manifest comes last and, where a dataset is
replaced, goes first: a place with a manifest holds a whole dataset. Nothing is removed but what copies put there, which
the manifest records, or before there is one, ``.fedkit-copy.json``.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

import pyarrow as pa
from pyarrow import fs

from fedrsic_data.build import pipeline, workspace
from fedrsic_data.build.engines import chosen
from fedrsic_data.build.engines.base import BuildEngine
from fedrsic_data.build.pipeline import QUIET, BuildListener, Built
from fedrsic_data.build.plan import Planned
from fedrsic_data.dataset import manifest
from fedrsic_data.errors import FedkitError, ManifestError, OutputError, UsageError, discreet, masked
from fedrsic_data.files import ownership
from fedrsic_data.files.cache import cache_folder
from fedrsic_data.settings import encode

_BLOCK = 4 * 2**20
_ADDRESS = re.compile(r"[A-Za-z][\w+.:-]*://")
_FORMAT = 1
_PATIENCE = 10  # seconds that Google has to answer at first
_COPY = ".fedkit-copy.json"  # names the files of a copy that is under way, so that the next one knows what is its own
_PASSING = ("memory://", "mock://")  # file systems inside a process


def check_lasting(out: str) -> None:
    """Looks at an output of which a command is to leave something.

    Raises:
        UsageError: Nothing there would outlast this process.
    """
    if out.lower().startswith(_PASSING):
        raise UsageError(f"--out {masked(out)}: goes with this process; name a folder, or a place such as s3://...")


def build(
    planned: Planned,
    out: str,
    *,
    overwrite: bool = False,
    listener: BuildListener = QUIET,
    engine: BuildEngine | None = None,
) -> Built:
    """Write a planned dataset to a URI; see ``pipeline.build``.

    Args:
        planned: From ``pipeline.prepare``.
        out: A URI such as ``s3://bucket/data/fed-rsic``. Its dataset is built in the cache and removed
            from there once all of it is at the URI, so this machine needs room for it.
        overwrite: Replace an existing dataset.
        listener: Receives progress.
        engine: Where shards are written.

    Raises:
        UsageError: No file system is known for the URI.
        OutputError: It cannot be written, or holds something else.
        SourceError: A file cannot be read or is no image.
    """
    remote, root = _opened(out)
    shown = masked(out)
    standing = _standing(remote, root, out, planned, overwrite=overwrite)
    staged = cache_folder() / "staged" / hashlib.sha256(out.encode()).hexdigest()[:16]
    built = pipeline.build(planned, staged, overwrite=overwrite, listener=listener, engine=engine or chosen())
    whole = {file.path: file.bytes for file in manifest.files(built.manifest)}
    written = built.written
    with _speaking(out):
        if standing == built.manifest.digest:
            whole = {path: size for path, size in whole.items() if _size(remote, f"{root}/{path}") != size}
            written = len(whole)
        elif standing is not None and not overwrite:
            raise OutputError(f"{shown}: the sources changed after it was built; rebuild it with --overwrite")
        listener.step(f"copying {len(whole)} files to {shown}")
        _copy(remote, root, out, staged, whole, fresh=standing != built.manifest.digest)
    shutil.rmtree(staged)
    return replace(built, written=written, uri=shown)


def _opened(out: str) -> tuple[fs.FileSystem, str]:
    """The file system of a URI and the path in it."""
    if not _ADDRESS.match(out):
        raise UsageError(f"--out {masked(out)}: is not a URL such as s3://BUCKET/FOLDER; name one, or a folder")
    try:
        found, path = fs.FileSystem.from_uri(out)
    except (pa.ArrowException, OSError):
        import fsspec

        try:
            inner, path = fsspec.core.url_to_fs(out)
        except Exception as error:  # each file system fails in its own way
            raise UsageError(f"--out {masked(out)}: no file system fits ({discreet(error, address=out)})") from None
        found = fs.PyFileSystem(fs.FSSpecHandler(inner))
    path = path.rstrip("/")
    if not path.strip("/"):
        raise UsageError(f"--out {masked(out)}: names no folder; add one for the dataset")
    if found.type_name == "gcs":
        _answers(out, path)
    return found, path


def _answers(out: str, path: str) -> None:
    """Looks at a place of Google's for some seconds: without credentials, its client would try for 15 minutes.

    Raises:
        OutputError: Nothing comes back.
    """
    limited = f"{out}{'&' if '?' in out else '?'}retry_limit_seconds={_PATIENCE}"
    if "retry_limit_seconds" in out:
        limited = out
    try:
        fs.FileSystem.from_uri(limited)[0].get_file_info(path)
    except (pa.ArrowException, OSError) as error:
        raise OutputError(
            f"{masked(out)}: does not answer within {_PATIENCE} s ({discreet(error, address=out)[:120]}...); "
            "log in with gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS"
        ) from None


@contextmanager
def _speaking(out: str) -> Iterator[None]:
    """Says in one line that a remote place could not be read or written."""
    try:
        yield
    except FedkitError:
        raise
    except Exception as error:  # each file system fails in its own way
        raise OutputError(f"{masked(out)}: cannot be written ({discreet(error, address=out)})") from None


def _standing(remote: fs.FileSystem, root: str, out: str, planned: Planned, *, overwrite: bool) -> str | None:
    """The digest of the dataset at the place, None if there is none.

    Raises:
        OutputError: What is there is no dataset, or another one that is not to be replaced.
    """
    try:
        standing, _ = _looked_at(remote, root, out)
    except FedkitError:
        raise
    except Exception as error:
        raise OutputError(f"{masked(out)}: cannot be read ({discreet(error, address=out)})") from None
    if standing is None:
        return None
    same = (standing.plan.digest, encode(standing.recipe)) == (planned.digest, encode(planned.recipe))
    if not same and not overwrite:
        raise OutputError(f"{masked(out)}: holds another dataset; replace it with --overwrite, or choose another --out")
    return standing.digest


def _looked_at(remote: fs.FileSystem, root: str, out: str) -> tuple[manifest.Manifest | None, set[str]]:
    """The manifest at the place, None if there is none, and the names of all files there, which copies put there.

    Raises:
        OutputError: There is something that no copy put there.
    """
    found = _files(remote, root)
    names: set[str] = set()
    standing = None
    if manifest.NAME in found:
        with tempfile.TemporaryDirectory() as here:
            (Path(here) / manifest.NAME).write_bytes(_bytes(remote, f"{root}/{manifest.NAME}"))
            try:
                standing = manifest.load(Path(here))
            except ManifestError as error:
                words = str(error).replace(f"{here}/", "")
                raise OutputError(f"{masked(out)}: cannot be read ({words}); choose another --out") from None
        names |= workspace.files_of(standing)
        if manifest.CARD in found and _COPY not in found:
            card = hashlib.sha256(_bytes(remote, f"{root}/{manifest.CARD}")).hexdigest()
            if card != standing.card.sha256:
                raise OutputError(f"{masked(out)}: {manifest.CARD} was edited and would be lost; move it away first")
    if _COPY in found and ownership.says(begun := _bytes(remote, f"{root}/{_COPY}"), _FORMAT):
        names |= {_COPY, *map(str, json.loads(begun).get("files", []))}
    known = {name for whole in (*names, _COPY) for name in (whole, f"{whole}.tmp")} - ({_COPY} - names)
    if foreign := next((name for name in sorted(found) if name not in known), None):
        if standing is None:
            raise OutputError(
                f"{masked(out)}: is not empty and holds no fedkit dataset ({foreign}); choose another --out"
            )
        raise OutputError(f"{masked(out)}: {foreign} is not fedkit's and would be lost; choose another --out")
    return standing, found


def _bytes(remote: fs.FileSystem, path: str) -> bytes:
    with remote.open_input_stream(path) as file:
        return bytes(file.read())


def _files(remote: fs.FileSystem, root: str) -> set[str]:
    """All files at the place by their paths in it."""
    found = remote.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True))
    above = f"{root.strip('/')}/"
    return {info.path.lstrip("/").removeprefix(above) for info in found if info.type == fs.FileType.File}


def _size(remote: fs.FileSystem, path: str) -> int | None:
    size: int | None = remote.get_file_info(path).size
    return size


def _copy(remote: fs.FileSystem, root: str, out: str, staged: Path, files: dict[str, int], *, fresh: bool) -> None:
    """Copies files and, last, the manifest. What is there is removed first, if copies put all of it there."""
    _, there = _looked_at(remote, root, out)
    if fresh:
        names = sorted({*files, manifest.NAME, *there} - {_COPY})
        _put(remote, f"{root}/{_COPY}", io.BytesIO(json.dumps({"fedkit": _FORMAT, "files": names}).encode()))
        for name in sorted(there - {_COPY}, key=lambda name: name != manifest.NAME):  # the manifest first
            remote.delete_file(f"{root}/{name}")
    for path in [*files, *([manifest.NAME] if fresh else [])]:
        target = f"{root}/{path}"
        with (staged / path).open("rb") as source:
            _put(remote, target, source)
        if _size(remote, target) != (staged / path).stat().st_size:
            raise OutputError(f"{path}: has another size after the copy; run the same command to copy it again")
    if fresh or _COPY in there:
        remote.delete_file(f"{root}/{_COPY}")


def _put(remote: fs.FileSystem, target: str, source: IO[bytes]) -> None:
    """Copies a file, which appears whole."""
    remote.create_dir(target.rpartition("/")[0], recursive=True)
    with remote.open_output_stream(f"{target}.tmp") as sink:
        while block := source.read(_BLOCK):
            sink.write(block)
    remote.move(f"{target}.tmp", target)
