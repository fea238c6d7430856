"""Fetching dataset archives: resumed, checked against a checksum, put in place whole.

A file is received as ``NAME.part`` with a small ``NAME.part.json`` that records which
version of which mirror it is a part of, and is renamed once its size and
checksum are right. ``checksums.json`` in the same folder remembers what was verified.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from email.message import Message
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, Any
from urllib import request as http
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from fedrsic_data import distribution
from fedrsic_data.errors import DownloadError, OutputError, UsageError, translated
from fedrsic_data.files import atomic, lock
from fedrsic_data.raw.remote import RemoteFile

Progress = Callable[[int, int | None], None]  # bytes so far, and the total or None where unknown
_Response = HTTPResponse | HTTPError

_CHECKSUMS = "checksums.json"
_BLOCK = 256 * 1024  # bytes per read: also the most a broken connection loses
_GAIN = 1024 * 1024  # new bytes that make an attempt count as progress
_LONGEST_WAIT = 120.0  # seconds, whatever a server's Retry-After asks for
_PASSING = {408, 429, 500, 502, 503, 504}  # statuses that may be gone on the next try
_sleep = time.sleep  # a name of its own, so that tests need not wait


class _TransientError(Exception):
    """The transfer broke in a way that another attempt may fix."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait  # seconds that the server requested


class _MirrorError(Exception):
    """This mirror will not deliver the file; the next one may."""


def fetch(
    remotes: Sequence[RemoteFile],
    folder: Path,
    *,
    progress: Progress | None = None,
    timeout: float = 30.0,
    attempts: int = 5,
) -> Path:
    """Return ``folder/filename``, verified, after downloading what is missing of it.

    A broken transfer is resumed where it stopped; processes that want the same file share
    one download. Without a published checksum the first one is trusted and recorded.

    Args:
        remotes: Mirrors of the same file, tried in order, https before http.
        folder: Folder of the file; created if it is missing.
        progress: Called with the bytes so far and the total.
        timeout: Seconds without a byte after which a connection counts as broken.
        attempts: Tries in a row without progress before a mirror is given up.

    Raises:
        UsageError: The remotes are empty, malformed or contradict each other.
        DownloadError: No mirror delivered the file, or a file does not match its checksum.
        OutputError: The folder cannot be written, or is full.
    """
    mirrors = _mirrors(remotes)
    target = folder / mirrors[0].filename
    with translated(OutputError, folder, "cannot be used", "remove it"):
        atomic.refuse_pipes(folder)
    if not target.exists():
        with translated(OutputError, str(folder), "cannot be written", "free space or choose another folder"):
            folder.mkdir(parents=True, exist_ok=True)
            with lock.locked(folder / f".{target.name}.lock"):
                if not target.exists():  # else another process has just fetched it
                    _download(mirrors, target, progress, timeout, max(attempts, 1))
    _check_present(target, mirrors[0])
    return target


def _mirrors(remotes: Sequence[RemoteFile]) -> list[RemoteFile]:
    """The remotes in the order to try, each with every fact that any of them publishes."""
    if not remotes:
        raise UsageError("remotes: is empty; give at least one")
    facts: dict[str, Any] = {}
    for remote in remotes:
        if not re.fullmatch(r"https?://[A-Za-z0-9.:-]+(/[\x21-\x7e]*)?", remote.url):
            raise UsageError(f"url {remote.url!r}: is not an http or https address; correct it")
        if not re.fullmatch(r"[^/\\\x00-\x1f]+", remote.filename) or remote.filename in {".", ".."}:
            raise UsageError(f"filename {remote.filename!r}: is not a plain file name; correct it")
        for field in ("filename", "size", "sha256", "md5"):
            value = getattr(remote, field)
            value = value.lower() if field in {"sha256", "md5"} and value else value
            if value is not None and facts.setdefault(field, value) != value:
                raise UsageError(f"{field} {value!r}: another mirror says {facts[field]!r}; make them agree")
    return sorted((replace(r, **facts) for r in remotes), key=lambda r: not r.url.startswith("https:"))


def _download(
    mirrors: list[RemoteFile], target: Path, progress: Progress | None, timeout: float, attempts: int
) -> None:
    part = target.with_name(target.name + ".part")
    failures = []
    for remote in mirrors:
        try:
            _receive(remote, part, progress, timeout, attempts)
            _accept(part, target, remote)
        except _MirrorError as error:
            failures.append(f"{remote.url.partition('?')[0]}: {error}")
        else:
            return
    raise DownloadError(
        f"{target}: not downloaded ({'; '.join(failures)}); "
        "check the network, or fetch the file yourself and pass --source NAME=PATH"
    )


def _receive(remote: RemoteFile, part: Path, progress: Progress | None, timeout: float, attempts: int) -> None:
    """Fill the part file, resuming until it is whole or the attempts are used up."""
    failed, furthest = 0, _partial(part, remote.url)[0]
    while True:
        try:
            _transfer(remote, part, progress, timeout)
        except _TransientError as error:
            reached = _partial(part, remote.url)[0]
            failed = 1 if reached >= furthest + _GAIN else failed + 1
            furthest = max(furthest, reached)
            if failed >= attempts:
                raise _MirrorError(f"{error}, given up after {attempts} attempts") from error
            wait = 2.0 ** (failed - 1) if error.wait is None else error.wait
            _sleep(min(wait, _LONGEST_WAIT))
        else:
            return


def _transfer(remote: RemoteFile, part: Path, progress: Progress | None, timeout: float) -> None:
    """One request: the whole file, or what the part file lacks of it."""
    have, validator = _partial(part, remote.url)
    with _open(_request(remote.url, have, validator), timeout) as response:
        headers = response.headers
        start, total = _content_range(headers)
        same = _validator(headers) in {"", validator}  # some servers ignore If-Range
        if response.status == 416 and same and total == have:
            return
        if response.status == 416 or (response.status == 206 and not (same and start == have)):
            _discard(part)
            raise _TransientError("the file on the server has changed")
        if response.status == 200:
            have = 0
        length = _number(headers.get("Content-Length"))
        if total is None and length is not None:
            total = have + length
        if headers.get_content_type() == "text/html" and "htm" not in remote.filename[-5:].lower():
            raise _MirrorError("sends an HTML page (a login, quota or confirmation?) instead of the file")
        if None not in {total, remote.size} and total != remote.size:
            raise _MirrorError(f"offers {total:,} bytes where {remote.size:,} are expected")
        total = remote.size if total is None else total
        if total is not None and total - have > shutil.disk_usage(part.parent).free:
            raise OutputError(f"{part.parent}: has no room for {total - have:,} more bytes; free space there")
        if not have:
            _discard(part)
            _write_json(part.with_suffix(".part.json"), {"url": remote.url, "validator": _validator(headers)})
        _append(response, part, have, total, progress)


def _append(body: _Response, part: Path, have: int, total: int | None, progress: Progress | None) -> None:
    with part.open("ab") as out:
        while total is None or have <= total:  # one byte too many is enough to refuse it
            try:
                block = body.read(_BLOCK)
            except (OSError, HTTPException) as error:
                raise _TransientError(f"the connection broke ({error or type(error).__name__})") from error
            if not block:
                break
            out.write(block)
            have += len(block)
            if progress:
                progress(have, total)
    if total is not None and have < total:
        raise _TransientError(f"the connection closed after {have:,} of {total:,} bytes")


def _open(request: http.Request, timeout: float) -> _Response:
    """Send a request; the answer is 200, 206, or 416 to a range."""
    try:
        response: HTTPResponse = http.build_opener(_Redirects).open(request, timeout=timeout)
    except HTTPError as error:
        if error.code == 416 and request.has_header("Range"):
            return error
        error.close()
        if error.code in _PASSING:
            raise _TransientError(f"HTTP {error.code}", _number(error.headers.get("Retry-After"))) from error
        hint = ", accept its terms and set HF_TOKEN if it is gated" if error.code in {401, 403} else ""
        raise _MirrorError(f"HTTP {error.code}{hint}") from error
    except (OSError, HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise _MirrorError(f"its certificate is not trusted ({reason.verify_message})") from error
        raise _TransientError(f"no connection ({reason or type(error).__name__})") from error
    except ValueError as error:
        raise _MirrorError("redirects to a malformed address") from error
    if response.status not in {200, 206}:
        raise _MirrorError(f"HTTP {response.status}")
    return response


class _Redirects(http.HTTPRedirectHandler):
    """Follows redirects to https, and from http to http; the token stays with its host."""

    def redirect_request(
        self, req: http.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> http.Request | None:
        old, new = urlsplit(req.full_url)[:2], urlsplit(newurl)[:2]
        if new[0] not in {"https", old[0]}:
            raise _MirrorError(f"redirects from {old[0]} to {new[0]}, which is refused")
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and new == old:
            _authorize(request)
        return request


def _request(url: str, have: int, validator: str) -> http.Request:
    # identity: a transparently compressed body would have other bytes and another length
    headers = {"User-Agent": f"fedkit/{distribution.version()}", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    request = http.Request(url, headers=headers)  # noqa: S310 - http(s) only, see _mirrors
    _authorize(request)
    return request


def _authorize(request: http.Request) -> None:
    """Add the Hugging Face token where it belongs, as a header no redirect carries on."""
    token = os.environ.get("HF_TOKEN", "").strip()
    hosts = {"https://huggingface.co", "https://hf.co", os.environ.get("HF_ENDPOINT", "")}
    if token and urlsplit(request.full_url)[:2] in {urlsplit(host)[:2] for host in hosts}:
        if not re.fullmatch(r"[\x21-\x7e]+", token):
            raise UsageError("HF_TOKEN: holds spaces or control characters; set it again")
        request.add_unredirected_header("Authorization", f"Bearer {token}")


def _validator(headers: Message) -> str:
    """Validator for If-Range: a strong ETag, else the modification time, else nothing."""
    etag = str(headers.get("ETag", ""))
    return etag if etag.startswith('"') else str(headers.get("Last-Modified", ""))


def _content_range(headers: Message) -> tuple[int | None, int | None]:
    """First byte and total of ``bytes 5-9/10`` or ``bytes */10``; None for what is not said."""
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", headers.get("Content-Range", ""))
    return (_number(match[1]), _number(match[2])) if match else (None, None)


def _number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"[0-9]{1,18}", text) else None


def _partial(part: Path, url: str) -> tuple[int, str]:
    """Bytes that may be kept of a part file, and the version of ``url`` they belong to."""
    try:
        side = json.loads(part.with_suffix(".part.json").read_text("utf-8"))
        if side["url"] == url and side["validator"]:
            return part.stat().st_size, str(side["validator"])
    except (OSError, ValueError, LookupError, TypeError):
        pass  # a part of unknown origin is worth nothing
    return 0, ""


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    part.with_suffix(".part.json").unlink(missing_ok=True)


def _accept(part: Path, target: Path, remote: RemoteFile) -> None:
    """Check a whole part file, record it and give it its name."""
    entry = _entry(part, remote)
    if wrong := _mismatch(entry, remote, _records(target.parent).get(target.name, {})):
        _discard(part)
        raise _MirrorError(f"{wrong}; the partial file was removed")
    with part.open("r+b") as file:
        os.fsync(file.fileno())
    _record(target, entry)  # first: a file in place is a known one
    part.replace(target)
    _discard(part)


def _check_present(target: Path, remote: RemoteFile) -> None:
    """Verify a file in place, at once when size and time are those last verified."""
    record = _records(target.parent).get(target.name, {})
    with translated(DownloadError, target, fix="remove it or fix it"):
        stat = target.stat()
        unchanged = (record.get("bytes"), record.get("mtime_ns")) == (stat.st_size, stat.st_mtime_ns)
        if unchanged and not _mismatch(record, remote, record):
            return
        entry = _entry(target, remote)
    if wrong := _mismatch(entry, remote, record):
        raise DownloadError(f"{target}: {wrong}; delete the file to download it again")
    with suppress(OSError):  # a read-only folder may be used all the same
        _record(target, entry)


def _entry(path: Path, remote: RemoteFile) -> dict[str, Any]:
    """Record of a file: its bytes, time, sha256, and md5 if that is published."""
    stat = path.stat()
    hashes = [hashlib.sha256()]
    if remote.md5 and not remote.sha256:
        hashes.append(hashlib.md5(usedforsecurity=False))
    with path.open("rb") as file:
        while block := file.read(4 * _BLOCK):
            for each in hashes:
                each.update(block)
    digests = {each.name: each.hexdigest() for each in hashes}
    return {**digests, "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns, "url": remote.url}


def _mismatch(entry: dict[str, Any], remote: RemoteFile, record: dict[str, Any]) -> str | None:
    """Describe what is wrong with a file, or return None; published facts precede recorded ones."""
    if remote.size not in {None, entry.get("bytes")}:
        return f"has {entry.get('bytes')} bytes where {remote.size} are published"
    kind = "md5" if remote.md5 and not remote.sha256 else "sha256"
    published = remote.sha256 or remote.md5
    expected = published or record.get("sha256")
    if expected is None or entry.get(kind) == expected:
        return None
    origin = "published" if published else f"in {_CHECKSUMS} (remove that entry if the file is a new version)"
    return f"has {kind} {entry.get(kind)} where {expected} is {origin}"


def _records(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / _CHECKSUMS
    with translated(DownloadError, path, fix="fix it or delete it", also=(ValueError,)):
        records = json.loads(path.read_text("utf-8")) if path.exists() else {}
    if not isinstance(records, dict) or not all(isinstance(each, dict) for each in records.values()):
        raise DownloadError(f"{path}: is not a table of files; fix it or delete it")
    return records


def _record(path: Path, entry: dict[str, Any]) -> None:
    """Remember a verified file, and the size and time by which to know it again."""
    with lock.locked(path.with_name(f".{_CHECKSUMS}.lock")):
        _write_json(path.with_name(_CHECKSUMS), _records(path.parent) | {path.name: entry})


def _write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all; the caller holds the lock."""
    with atomic.replacing(path, lasting=False) as file:
        file.write((json.dumps(value, indent=1) + "\n").encode())
