"""Builds whose output is no local folder: ``s3://``, ``gs://``, ``memory://`` and what else pyarrow or fsspec know.

A dataset is built in a folder of this machine first, which is what resumes after an interruption, and then copied
file by file. Each file is written under another name and moved; the manifest comes last and, where a dataset is
replaced, goes first: a place with a manifest holds a whole dataset.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from fedrsic_data import build as pipeline
from fedrsic_data import manifest
from fedrsic_data.build import QUIET, Built, Listener
from fedrsic_data.engines import chosen
from fedrsic_data.engines.base import Engine
from fedrsic_data.errors import FedkitError, OutputError, UsageError, discreet, masked
from fedrsic_data.manifest import CARD
from fedrsic_data.plan import Planned
from fedrsic_data.recipe import to_json
from fedrsic_data.sources.locate import cache_folder

_BLOCK = 4 * 2**20
_ADDRESS = re.compile(r"[A-Za-z][\w+.:-]*://")
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
    listener: Listener = QUIET,
    engine: Engine | None = None,
    check: Callable[[manifest.Manifest], None] = lambda _: None,
) -> Built:
    """Writes a planned dataset to a folder or to a URI; see ``build.build``.

    Args:
        planned: From ``build.prepare``.
        out: A folder, or a URI such as ``s3://bucket/data/fed-rsic``. Its dataset is built in the cache and removed
            from there once all of it is at the URI, so this machine needs room for it.
        overwrite: Replace another dataset that stands there.
        listener: Hears of the progress.
        engine: Where shards are written.
        check: See ``build.build``.

    Raises:
        UsageError: No file system is known for the URI.
        OutputError: It cannot be written, or holds something else.
        SourceError: A file cannot be read or is no image.
    """
    engine = engine or chosen()
    if "://" not in out:
        return pipeline.build(planned, Path(out), overwrite=overwrite, listener=listener, engine=engine, check=check)
    remote, root = _opened(out)
    shown = masked(out)
    standing = _standing(remote, root, out, planned, overwrite=overwrite)
    staged = cache_folder() / "staged" / hashlib.sha256(out.encode()).hexdigest()[:16]
    built = pipeline.build(planned, staged, overwrite=overwrite, listener=listener, engine=engine, check=check)
    whole = {file.path: file.bytes for file in manifest.files(built.manifest)}
    written = built.written
    with _speaking(out):
        if standing == built.manifest.digest:
            whole = {path: size for path, size in whole.items() if _size(remote, f"{root}/{path}") != size}
            written = len(whole)
        elif standing is not None and not overwrite:
            raise OutputError(f"{shown}: the sources changed after it was built; rebuild it with --overwrite")
        listener.step(f"copying {len(whole)} files to {shown}")
        _copy(remote, root, staged, whole, fresh=standing != built.manifest.digest)
    shutil.rmtree(staged)
    return replace(built, written=written, uri=shown)


def _opened(out: str) -> tuple[fs.FileSystem, str]:
    """The file system of a URI and the path in it."""
    if not _ADDRESS.match(out):
        raise UsageError(f"--out {masked(out)}: is no address such as s3://BUCKET/FOLDER; name one, or a folder")
    try:
        found, path = fs.FileSystem.from_uri(out)
    except (pa.ArrowException, OSError):
        import fsspec

        try:
            inner, path = fsspec.core.url_to_fs(out)
        except Exception as error:  # each file system fails in its own way
            raise UsageError(f"--out {masked(out)}: no file system for it ({discreet(error, address=out)})") from None
        found = fs.PyFileSystem(fs.FSSpecHandler(inner))
    path = path.rstrip("/")
    if not path.strip("/"):
        raise UsageError(f"--out {masked(out)}: names no folder; give the dataset one of its own")
    return found, path


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
        found = [info for info in _files(remote, root) if not _of_a_copy(info)]
        if not found:
            return None
        if [info.base_name for info in found] != [manifest.NAME]:
            raise OutputError(  # noqa: TRY301 - known only once the place was looked at
                f"{masked(out)}: is not empty and holds no fedkit dataset; choose another --out"
            )
        with remote.open_input_stream(found[0].path) as file:
            data = json.loads(file.read())
        same = (data["plan"]["digest"], data["recipe"]) == (planned.digest, to_json(planned.recipe))
        digest = str(data["digest"])
    except FedkitError:
        raise
    except Exception as error:
        raise OutputError(f"{masked(out)}: cannot be read ({discreet(error, address=out)})") from None
    if not same and not overwrite:
        raise OutputError(f"{masked(out)}: holds another dataset; replace it with --overwrite, or choose another --out")
    return digest


def _files(remote: fs.FileSystem, root: str) -> list[fs.FileInfo]:
    found = remote.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True))
    return [info for info in found if info.type == fs.FileType.File]


def _of_a_copy(info: fs.FileInfo) -> bool:
    """Whether a file may be one that a copy, perhaps an interrupted one, wrote before the manifest."""
    whole: str = info.base_name
    name = whole.removesuffix(".tmp")
    return name.endswith(".parquet") or name == CARD or (name != whole and name == manifest.NAME)


def _size(remote: fs.FileSystem, path: str) -> int | None:
    size: int | None = remote.get_file_info(path).size
    return size


def _copy(remote: fs.FileSystem, root: str, staged: Path, files: dict[str, int], *, fresh: bool) -> None:
    """Copies files and, last, the manifest."""
    if fresh:  # the manifest first
        for info in sorted(_files(remote, root), key=lambda info: info.base_name != manifest.NAME):
            remote.delete_file(info.path)
    for path in [*files, *([manifest.NAME] if fresh else [])]:
        target = f"{root}/{path}"
        remote.create_dir(target.rpartition("/")[0], recursive=True)
        with (staged / path).open("rb") as source, remote.open_output_stream(f"{target}.tmp") as sink:
            while block := source.read(_BLOCK):
                sink.write(block)
        remote.move(f"{target}.tmp", target)
        if _size(remote, target) != (staged / path).stat().st_size:
            raise OutputError(f"{path}: arrived with another size; run the same command, it copies again")
