"""Datasets on the Hugging Face Hub: their addresses, what the Hub answers in words, and files read by ranges.

Everything is read at one commit, which a branch or tag is resolved to when the dataset is opened. The manifest, the
client table and the plan are kept in the cache. A shard is fetched whole, proved and kept under its digest; or, where
only some clients are read and no proof is required, only their bytes are fetched.
"""

from __future__ import annotations

import io
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet as pq

from fedrsic_data.dataset import manifest
from fedrsic_data.dataset.local import digest, local, readable
from fedrsic_data.dataset.manifest import Manifest, Shard
from fedrsic_data.errors import FedkitError, HubError, ManifestError, UsageError, discreet
from fedrsic_data.files import atomic
from fedrsic_data.files.cache import cache_folder, caching

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
_REVISION = r"[\w./-]+"
_ADDRESS = re.compile(rf"(?:hf:/{{1,2}}(?:datasets/)?)?({_NAME}/{_NAME})(?:@({_REVISION}))?/?")
_COMMIT, _DIGEST = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")
_TRIES = 3  # to keep what another process keeps at the same time
TIMEOUT = 30.0  # seconds
_UNKNOWN, _FORBIDDEN, _ABSENT = 401, 403, 404
_UNSENT = {"UnsupportedProtocol", "InvalidURL", "LocalProtocolError", "UnicodeError"}  # errors of what is asked with
_PASSING = {408, 409, 412, 429, 500, 502, 503, 504}  # statuses that may be gone on the next try
_WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before each further try
_LATE = 15.0  # seconds after which a failed question was not for want of patience
_LONGEST_WAIT = 300.0  # seconds that a server may ask for
_sleep = time.sleep  # a name of its own, so that tests need not wait

T = TypeVar("T")


@dataclass(frozen=True)
class Address:
    """A dataset repository.

    Attributes:
        repo: ``user/name``.
        revision: Branch, tag or commit; None: the main branch.
    """

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"hf://{self.repo}" + (f"@{self.revision}" if self.revision else "")


def address(text: str | os.PathLike[str]) -> Address:
    """A repository from ``hf://USER/NAME[@REVISION]`` or ``USER/NAME[@REVISION]``.

    Raises:
        UsageError: It is neither.
    """
    match = _ADDRESS.fullmatch(os.fspath(text))
    if match is None or ".." in match[0] or "--" in match[1]:
        raise UsageError(f"{os.fspath(text)!r}: should look like hf://USER/NAME or hf://USER/NAME@REVISION")
    return Address(match[1], match[2])


def is_revision(text: str) -> bool:
    """Whether an address can name it as its branch, tag or commit."""
    return re.fullmatch(_REVISION, text) is not None and ".." not in text


@contextmanager
def speaking(to: Address) -> Iterator[None]:
    """Calls to the Hub: without chatter, and with failures in one line.

    Raises:
        HubError: Whatever the client raised.
    """
    try:
        from huggingface_hub import utils

        loud, bars = utils.logging.get_verbosity(), not utils.are_progress_bars_disabled()
    except ValueError as error:  # it reads its settings when its modules are imported
        raise HubError(
            f"{to}: huggingface_hub cannot be used ({discreet(error)}); check the HF_* environment variables"
        ) from None
    utils.logging.set_verbosity(utils.logging.ERROR)
    if bars:
        utils.disable_progress_bars()
    try:
        yield
    except FedkitError:
        raise
    except Exception as error:  # the client raises a dozen kinds, its own and the HTTP library's
        raise HubError(_words(to, error)) from error
    finally:
        utils.logging.set_verbosity(loud)
        if bars:
            utils.enable_progress_bars()


def response(error: BaseException | None) -> Any:
    """The HTTP response that an error came of; None if there was none."""
    for one in _chain(error):
        if (found := getattr(one, "response", None)) is not None:
            return found
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came of."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _words(to: Address, error: Exception) -> str:
    status = getattr(response(error), "status_code", None)
    if status == _UNKNOWN:
        return f"{to}: the Hub does not recognise you (401); log in with: hf auth login, or set HF_TOKEN"
    if status == _FORBIDDEN:
        return f"{to}: your token has no permission for this (403); use one with write access: hf auth login"
    if status == _ABSENT:
        return f"{to}: there is no such dataset or revision, or it is private; log in with: hf auth login"
    if isinstance(error, OSError) and error.filename is not None:  # the login, or a file to send
        return f"{to}: {error.filename} cannot be used ({error.strerror}); fix it or its permissions"
    if _kinds(error) & _UNSENT:
        return f"{to}: the Hub cannot be asked ({discreet(error)}); fix HF_ENDPOINT, or log in: hf auth login"
    return f"{to}: the Hub cannot be used ({discreet(error)}); try again later"


def patiently(call: Callable[[], T], *, whatever_it_took: bool = False) -> T:
    """Calls again, after a while, as long as what fails is of the kind that passes.

    The client itself tries some requests again, and some it does not: commits, for one.

    Args:
        call: Raises ``HubError``.
        whatever_it_took: Call again also after a failure that came late: work was done, or the client was patient.

    Raises:
        HubError: It does not pass, or the server asks for more patience than there is.
    """
    for wait in (*_WAITS, None):
        begun = time.monotonic()
        try:
            return call()
        except HubError as error:
            answer = response(error)
            asked = answer.headers.get("Retry-After", "") if answer is not None else ""
            seconds = float(asked) if asked.isdecimal() else 0.0
            late = time.monotonic() - begun > _LATE and not whatever_it_took
            if wait is None or late or seconds > _LONGEST_WAIT or not _passing(error):
                raise
            _sleep(max(wait, seconds))
    raise AssertionError("unreachable")


def lost(error: BaseException | None) -> bool:
    """Whether the connection broke, so that nobody knows what the server did."""
    kinds = _kinds(error)
    return "TransportError" in kinds and not kinds & _UNSENT


def _kinds(error: BaseException | None) -> set[str]:
    """Names of the classes of an error and of what it came of; the client's HTTP libraries have them in common."""
    return {kind.__name__ for one in _chain(error) for kind in type(one).__mro__}


def _passing(error: HubError) -> bool:
    answer = response(error)
    return lost(error) if answer is None else answer.status_code in _PASSING


def pinned(where: Address) -> Address:
    """The same at the commit that its revision is now.

    Raises:
        HubError: There is none, or the Hub cannot be reached.
    """
    if where.revision and _COMMIT.fullmatch(where.revision):
        return where

    def ask() -> str | None:
        with speaking(where):
            from huggingface_hub import HfApi

            return HfApi().dataset_info(where.repo, revision=where.revision, expand=["sha"], timeout=TIMEOUT).sha

    commit = patiently(ask)
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):  # it becomes part of a path
        raise HubError(f"{where}: the Hub returned no commit for it")
    return Address(where.repo, commit)


class HubFiles:
    """The files of a published dataset, at one commit."""

    def __init__(self, text: str | os.PathLike[str]) -> None:
        """Fetches the manifest, unless it is in the cache.

        Args:
            text: ``hf://USER/NAME[@REVISION]``.

        Raises:
            UsageError: It is no such address.
            HubError: The Hub cannot be reached, or has no such dataset.
            ManifestError: The repository holds no dataset of fedkit.
        """
        self._asked = address(text)
        self._at = pinned(self._asked)
        self.where = str(self._at)
        self.folder = cache_folder() / "published" / self.where.removeprefix("hf://").replace("/", "--")
        with caching(HubError, self.folder):
            self._fetch(manifest.NAME)
            self.manifest = self._trusted(self.folder / manifest.NAME)

    def _trusted(self, path: Path) -> Manifest:
        """The manifest; one that cannot be used is not kept, so that it is fetched again."""
        try:
            found = manifest.load(path)
        except ManifestError:
            path.unlink(missing_ok=True)
            raise
        if manifest.digest(found) != found.digest:
            path.unlink()
            raise ManifestError(f"{self.where}: its {manifest.NAME} was edited; it cannot be trusted")
        return found

    def prove(self, shard: Shard) -> None:
        kept = _kept(shard)
        for _ in range(_TRIES):
            with caching(HubError, self.folder):
                if _holds(kept, shard):
                    return
                self._fetch(shard.path)
                fetched = manifest.safe(self.folder, shard.path)
                try:
                    if atomic.file_digest(fetched) != shard.sha256:
                        fetched.unlink()
                        raise ManifestError(self._another(shard.path))
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(fetched, kept)
                except FileNotFoundError:  # another process, which fetched the same, has put it there
                    continue
                return
        raise HubError(f"{fetched}: disappears as soon as it is downloaded; choose another cache with FEDKIT_CACHE")

    def prove_tables(self) -> None:
        """Do nothing: tables are verified when they are fetched, and fetched only to be read."""

    def parquet(self, name: str) -> Any:
        if name in (self.manifest.plan.path, self.manifest.clients.path):
            return local(self._small(name))
        shard = self._shards[name]
        with caching(HubError, self.folder):
            return local(_kept(shard)) if _holds(_kept(shard), shard) else self._ranges(shard)

    @contextmanager
    def _ranges(self, shard: Shard) -> Iterator[pq.ParquetFile]:
        """A remote shard, of which only the requested parts are fetched; its digest is the one the Hub reports."""
        with (
            readable(f"{self.where}/{shard.path}"),
            # buffered: the columns of a row group lie behind one another, and are fetched in one request
            pq.ParquetFile(Ranges(self._at, shard), metadata=_footer(self._at, shard), pre_buffer=True) as file,
        ):
            yield file

    @cached_property
    def _shards(self) -> dict[str, Shard]:
        return {shard.path: shard for shard in manifest.shards(self.manifest)}

    def _another(self, name: str) -> str:
        return f"{self.where}: {name} does not match its manifest; publish the dataset again"

    def _small(self, name: str) -> Path:
        """A file beside the manifest, fetched once and as the manifest says."""
        path = manifest.safe(self.folder, name)
        wanted = {entry.path: entry.sha256 for entry in manifest.files(self.manifest)}
        with caching(HubError, self.folder):
            self._fetch(name)
            if atomic.file_digest(path) != wanted[name]:
                path.unlink()
                raise ManifestError(self._another(name))
        return path

    def _fetch(self, name: str) -> None:
        if (self.folder / name).is_file():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        atomic.refuse_pipes(self.folder)

        def fetch() -> None:
            at, to = self._at, self.folder
            with speaking(self._asked):
                from huggingface_hub import hf_hub_download
                from huggingface_hub.errors import RemoteEntryNotFoundError

                try:
                    # not into the Hub's own cache: it is made of links, and a manifest's paths may not leave its folder
                    hf_hub_download(at.repo, name, repo_type="dataset", revision=at.revision, local_dir=to)
                except RemoteEntryNotFoundError:
                    raise ManifestError(f"{self._asked}: holds no {name}; fedkit did not publish it") from None

        patiently(fetch)


def _kept(shard: Shard) -> Path:
    """Cache path of a shard, for any dataset and commit.

    Raises:
        ManifestError: Its digest is none.
    """
    if not _DIGEST.fullmatch(shard.sha256):  # it becomes part of a path
        raise ManifestError(f"{shard.path}: the manifest has no digest for it; publish the dataset again")
    return cache_folder() / "shards" / f"{shard.sha256}.parquet"


def _holds(kept: Path, shard: Shard) -> bool:
    """Whether a shard is in the cache, whole."""
    return kept.is_file() and digest(kept) == shard.sha256


class Ranges(io.RawIOBase):
    """A shard of a commit, read by HTTP ranges: only the requested bytes are fetched.

    Part of a file cannot be compared with the file's digest. The digest that the Hub names with every answer is.
    """

    def __init__(self, at: Address, shard: Shard) -> None:
        """Fetches nothing yet.

        Args:
            at: The repository at a commit.
            shard: As its manifest lists it.
        """
        self.at, self.shard = at, shard
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self.shard.bytes}[whence]
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes, at most ``size`` of them; all that are left if it is negative.

        Raises:
            HubError: The Hub cannot be reached, or answers something else.
        """
        left = max(self.shard.bytes - self._place, 0)
        size = left if size is None or size < 0 else min(size, left)
        start, end = self._place, self._place + size
        data = patiently(lambda: self._range(start, end)) if size else b""
        self._place = end
        return data

    def _range(self, start: int, end: int) -> bytes:
        with speaking(self.at):
            from huggingface_hub import constants, hf_hub_url
            from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

            url = hf_hub_url(self.at.repo, self.shard.path, repo_type="dataset", revision=self.at.revision)
            headers = {**build_hf_headers(), "Range": f"bytes={start}-{end - 1}"}
            timeout, data = constants.HF_HUB_DOWNLOAD_TIMEOUT, bytearray()
            # without its own tries again: they do not go with an answer that breaks off
            with http_stream_backoff("GET", url, headers=headers, timeout=timeout, max_retries=0) as answer:
                hf_raise_for_status(answer)
                self._vouched(answer)
                total = answer.headers.get("Content-Range", "").rpartition("/")[2]
                if answer.status_code == 206 and total == str(self.shard.bytes):
                    for chunk in answer.iter_bytes():
                        data += chunk
                        if len(data) > end - start:  # whoever sends more may never end
                            break
            if len(data) != end - start:
                raise ManifestError(f"{self._name} does not have the size in the manifest; publish the dataset again")
            return bytes(data)

    def _vouched(self, answer: Any) -> None:
        """Compares the digest that the Hub names of the file, on the way to its storage, with the manifest's."""
        first = [*getattr(answer, "history", ()), answer][0].headers
        named = (first.get("X-Linked-ETag") or first.get("ETag") or "").removeprefix("W/").strip('"')
        if not _DIGEST.fullmatch(named):
            raise ManifestError(
                f"{self._name} has no digest on the Hub; fetch it whole: fedrsic_data.open(..., proved=True)"
            )
        if named != self.shard.sha256:
            raise ManifestError(f"{self._name} does not match its manifest; publish the dataset again")

    @property
    def _name(self) -> str:
        return f"{self.at}: {self.shard.path}"


@lru_cache(maxsize=16)  # clients are mostly read in order
def _footer(at: Address, shard: Shard) -> pq.FileMetaData:
    """The footer of a shard of a commit, fetched once for its clients in a row: it never changes."""
    return pq.read_metadata(Ranges(at, shard))
