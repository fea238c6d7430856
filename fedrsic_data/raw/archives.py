"""Reading zip and tar archives that may be damaged or hostile.

The whole listing is checked before a byte of any member is read; the size of each member is then checked
against the listing. A gzipped tar, which can be read only once, is checked while it is read.
"""

from __future__ import annotations

import io
import os
import re
import stat
import sys
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, NamedTuple, Self, cast

from fedrsic_data.errors import FedkitError, SourceError, UnsafeArchiveError

_BLOCK = 1024 * 1024  # bytes read or inflated at a time
_RATIO_FLOOR = 1024 * 1024  # bytes below which any compression ratio is harmless
_BACK = 512  # bytes that can be gone back in a gzipped tar: one of its records
_LOCAL_HEADER = 30  # bytes of a zip member's local header before its name
_AGAIN = "download it again from its official source"


@dataclass(frozen=True)
class Limits:
    """Limits on an archive, beyond which it counts as hostile."""

    max_members: int = 2_000_000  # files and folders
    max_member_bytes: int = 64 * 1024 * 1024  # of one file, inflated
    max_json_bytes: int = 2**30  # of one .json file, inflated: annotations of a whole dataset, read as a stream
    max_ratio: float = 200.0  # inflated over packed, above 1 MiB: of a zip member or a whole tar.gz
    max_total_bytes: int | None = None  # of all files, inflated; None for no limit


DEFAULT_LIMITS = Limits()
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_DRIVE = re.compile(r"[A-Za-z]:")
_TAR_PLAIN = {tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.DIRTYPE}
_GZIP = b"\x1f\x8b"
_ENCRYPTED = 0x2041  # flag bits: classic, strong, and hidden headers


class _Member(NamedTuple):
    """Where a member lies and what it declares."""

    offset: int  # of its local header in a zip archive, of its data in a tar archive
    limit: int  # where the next member, or the central directory, starts
    packed: int  # bytes in the archive
    size: int  # bytes inflated
    crc: int | None  # None: it declares none
    stored: bool


class _Listing:
    """Members that an archive has listed so far, checked against the limits."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path, self.limits = path, limits
        self._files: set[str] = set()
        self._count = self._total = 0

    def add(self, raw: str, size: int, *, folder: bool) -> str:
        """Return the safe name of one more member, or refuse the archive."""
        limits = self.limits
        self._count += 1
        if self._count > limits.max_members:
            raise _unsafe(self.path, raw, f"is one more than the {limits.max_members:,} allowed")
        name = _safe_name(self.path, raw)
        if folder:
            return name
        if not name or name in self._files:
            raise _unsafe(self.path, raw, "is listed twice" if name else "has no name")
        most = limits.max_json_bytes if name.lower().endswith(".json") else limits.max_member_bytes
        if size > most:
            raise _unsafe(self.path, raw, f"has {size:,} bytes, over {most:,}")
        self._total += size
        if limits.max_total_bytes is not None and self._total > limits.max_total_bytes:
            raise _unsafe(self.path, raw, f"brings the total over {limits.max_total_bytes:,} bytes")
        self._files.add(name)
        return name

    def finish(self) -> None:
        """Refuse a file that is also a folder of others."""
        parents: set[str] = set()
        for name in self._files:
            while (name := name.rpartition("/")[0]) and name not in parents:
                parents.add(name)
        for name in sorted(parents & self._files):
            raise _unsafe(self.path, name, "is both a file and a folder")


def _unsafe(path: Path, member: str, reason: str) -> UnsafeArchiveError:
    return UnsafeArchiveError(f"{path}: member {member!r} {reason}; do not use this file, {_AGAIN}")


def _safe_name(path: Path, raw: str) -> str:
    """A member's name as a relative POSIX path that stays inside its folder."""
    if _UNPRINTABLE.search(raw):
        raise _unsafe(path, raw, "has control or undecodable characters in its name")
    name = raw.replace("\\", "/")
    if name.startswith("/") or _DRIVE.match(name):
        raise _unsafe(path, raw, "has an absolute name")
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if ".." in parts:
        raise _unsafe(path, raw, "leaves its folder")
    return "/".join(parts)


def _is_litter(name: str) -> bool:
    """Whether macOS added the file."""
    return name.startswith("__MACOSX/") or name.rpartition("/")[2] == ".DS_Store"


def _zip_members(path: Path, archive: zipfile.ZipFile, limits: Limits) -> dict[str, _Member]:
    """The files of a zip archive by safe name, once all of its listing is in order."""
    infos = archive.infolist()
    ends, end = {}, archive.start_dir
    for info in sorted(infos, key=lambda info: info.header_offset, reverse=True):
        least = _LOCAL_HEADER + len(info.orig_filename) + info.compress_size
        if info.header_offset < 0 or info.header_offset + least > end:
            raise _unsafe(path, info.orig_filename, "overlaps what follows it")
        ends[info.header_offset], end = end, info.header_offset
    listing = _Listing(path, limits)
    members = {}
    for info in infos:
        raw, size, packed = info.orig_filename, info.file_size, info.compress_size
        folder = raw.endswith(("/", "\\"))
        name = listing.add(raw, size, folder=folder)
        if stat.S_IFMT(info.external_attr >> 16) not in {0, stat.S_IFREG, stat.S_IFDIR}:
            raise _unsafe(path, raw, "is a link or a device")
        if info.flag_bits & _ENCRYPTED:
            raise _unsafe(path, raw, "is encrypted")
        if size > _RATIO_FLOOR and size > limits.max_ratio * packed:
            raise _unsafe(path, raw, f"inflates more than {limits.max_ratio:g} times")
        if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise SourceError(f"{path}: member {raw!r} has method {info.compress_type}; repack it as deflate")
        if not folder and not _is_litter(name):
            stored = info.compress_type == zipfile.ZIP_STORED or not packed
            end = ends[info.header_offset]
            members[name] = _Member(info.header_offset, end, packed, size, info.CRC, stored)
    listing.finish()
    return members


def _inflated(packed: Iterator[bytes]) -> Iterator[bytes]:
    """Inflate raw deflate data, at most ``_BLOCK`` bytes at a time."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    while not inflater.eof:
        data = inflater.unconsumed_tail or next(packed, b"")
        block = inflater.decompress(data, _BLOCK)
        if not (block or data):
            raise EOFError("its data ends too early")
        yield block


class _ArchiveReader(ABC):
    """The files of an archive, readable from many threads at once.

    Attributes:
        names: Safe POSIX names of the files in archive order, without what macOS adds.

    Raises:
        SourceError: The file is missing, damaged or not such an archive.
        UnsafeArchiveError: A member must not be read; none was.
    """

    def __init__(self, path: Path, limits: Limits = DEFAULT_LIMITS) -> None:
        self.path = path
        with unpacking(path):
            self._file = path.open("rb", buffering=0)
        try:
            with unpacking(path):
                self._members = self._listed(limits)
        except BaseException:
            self._file.close()
            raise
        self.names = list(self._members)

    @abstractmethod
    def _listed(self, limits: Limits) -> dict[str, _Member]:
        """The files by safe name, once all of the listing is in order."""

    @abstractmethod
    def _start(self, name: str, member: _Member) -> int:
        """Where a member's bytes begin."""

    def read(self, name: str) -> bytes:
        """Return the bytes of a member, as many as it declares and with its checksum.

        Raises:
            SourceError: There is no such member, it is damaged, or the archive changed.
            UnsafeArchiveError: It inflates to more than it declares.
        """
        return b"".join(self.blocks(name))

    def blocks(self, name: str) -> Iterator[bytes]:
        """Yield a member in blocks of at most 1 MiB; errors as for ``read``."""
        member = self._member(name)
        with unpacking(self.path, name):
            start = self._start(name, member)
            places = range(start, start + member.packed, _BLOCK)
            packed = (self._at(offset, min(_BLOCK, start + member.packed - offset)) for offset in places)
            size = crc = 0
            for block in packed if member.stored else _inflated(packed):
                size += len(block)
                if size > member.size:
                    raise _unsafe(self.path, name, f"inflates to more than the {member.size:,} bytes declared")
                crc = crc if member.crc is None else zlib.crc32(block, crc)
                yield block
            if size != member.size or member.crc not in (None, crc):
                raise zipfile.BadZipFile("its length or checksum is wrong")

    def size(self, name: str) -> int:
        """Bytes that a member declares; errors as for ``read``."""
        return self._member(name).size

    def middle(self, name: str, most: int) -> bytes:
        """Up to ``most`` bytes from the middle of a member; errors as for ``read``."""
        member = self._member(name)
        if not member.stored:
            return self.read(name)[member.size // 2 :][:most]
        with unpacking(self.path, name):
            start, half = self._start(name, member), member.size // 2
            return self._at(start + half, min(most, member.size - half))

    def close(self) -> None:
        """Close the archive; no thread may be reading it."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_file"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        with unpacking(self.path):
            self._file = self.path.open("rb", buffering=0)

    def _at(self, offset: int, length: int) -> bytes:
        if sys.platform != "win32":
            data = os.pread(self._file.fileno(), length, offset)  # needs neither lock nor seek
        else:
            with self.path.open("rb", buffering=0) as file:  # a handle of its own needs neither, too
                file.seek(offset)
                data = file.read(length)
        if len(data) < length:
            raise EOFError("its data ends too early")
        return data

    def _member(self, name: str) -> _Member:
        member = self._members.get(name)
        if member is None:
            raise SourceError(f"{self.path}: has no member {name!r}; check the name, or {_AGAIN}")
        return member


class ZipReader(_ArchiveReader):
    """The files of a zip archive, stored or deflated."""

    def _listed(self, limits: Limits) -> dict[str, _Member]:
        with zipfile.ZipFile(cast("IO[bytes]", self._file)) as archive:
            return _zip_members(self.path, archive, limits)

    def _start(self, name: str, member: _Member) -> int:
        header = self._at(member.offset, _LOCAL_HEADER)
        if not header.startswith(b"PK\x03\x04"):
            raise zipfile.BadZipFile("its local header is missing")
        lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        start = member.offset + _LOCAL_HEADER + lengths
        if start + member.packed > member.limit:
            raise _unsafe(self.path, name, "overlaps what follows it")
        return start


class TarReader(_ArchiveReader):
    """The files of a plain tar archive, which are read in place."""

    def _listed(self, limits: Limits) -> dict[str, _Member]:
        if self._at(0, 2) == _GZIP:
            raise SourceError(
                f"{self.path}: is compressed, and cannot be read in place; unpack it, and give the folder"
            )
        with _PlainTar(self.path) as stream:
            files = _tar_files(self.path, stream, limits)
            return {name: _Member(offset, 0, size, size, None, True) for name, offset, size in files}

    def _start(self, _: str, member: _Member) -> int:
        return member.offset


class _PlainTar(io.FileIO):
    """A tar file of which small pieces are read."""

    def read(self, size: int | None = -1) -> bytes:
        _check_header(self.name, size)
        return super().read(size)


def _check_header(path: object, size: int | None) -> None:
    if size is None or not 0 <= size <= _BLOCK:  # as no honest header asks for
        raise UnsafeArchiveError(f"{path}: has an oversized header; do not use this file, {_AGAIN}")


def targz_files(path: Path, limits: Limits = DEFAULT_LIMITS) -> Iterator[tuple[str, bytes]]:
    """Safe name and content of each file of a gzipped tar, in its order; one file in memory at a time.

    What comes before damage or a member that must not be read is given before the error is raised.

    Raises:
        SourceError: The archive is missing, damaged, cut short or no gzipped tar.
        UnsafeArchiveError: A member must not be read.
    """
    limits = replace(limits, max_json_bytes=limits.max_member_bytes)  # whatever it is called, it is to fit memory
    with unpacking(path), path.open("rb", buffering=0) as file:
        stream = _Inflating(path, file, limits)
        for name, offset, size in _tar_files(path, stream, limits):
            stream.seek(offset)
            yield name, stream.take(size)


def targz_names(path: Path, limits: Limits = DEFAULT_LIMITS) -> Iterator[str]:
    """Safe name of each file of a gzipped tar; errors as for ``targz_files``."""
    with unpacking(path), path.open("rb", buffering=0) as file:
        for name, _, _ in _tar_files(path, _Inflating(path, file, limits), limits):
            yield name


class _Inflating:
    """The plain bytes of a gzip file: forward only, but for the last few, and bounded.

    ``gzip.GzipFile`` inflates a few kB at a time under the interpreter's lock; blocks this large let threads run.
    """

    def __init__(self, path: Path, file: IO[bytes], limits: Limits) -> None:
        self._path, self._file = path, file
        self._ceiling = max(_RATIO_FLOOR, limits.max_ratio * path.stat().st_size)
        self._inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)  # checks length and checksum at the end
        self._block = b""
        self._at = 0  # in the block
        self._end = 0  # of the block, in the stream
        if file.read(2) != _GZIP:
            raise zlib.error("not gzip")
        file.seek(0)

    def tell(self) -> int:
        """Bytes before the next one read."""
        return self._end - len(self._block) + self._at

    def seek(self, offset: int) -> int:
        """Goes to an offset, which is ahead or at most a tar record behind."""
        while offset > self._end and self._refill():
            pass
        at = offset - (self._end - len(self._block))
        if at < 0:
            raise zlib.error("it points backwards")
        self._at = min(at, len(self._block))
        return self.tell()

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes; fewer only at the end."""
        _check_header(self._path, size)
        parts, missing = [], size
        while missing and (self._at < len(self._block) or self._refill()):
            part = self._block[self._at : self._at + missing]
            self._at += len(part)
            missing -= len(part)
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def take(self, size: int) -> bytes:
        """Exactly ``size`` bytes, which the caller has bounded."""
        data = b"".join(self.read(min(_BLOCK, size - start)) for start in range(0, size, _BLOCK))
        if len(data) < size:
            raise EOFError("its data ends too early")
        return data

    def _refill(self) -> bool:
        """Inflates one more block behind the last bytes of this one; False at the end."""
        fresh = b""
        while not fresh:
            if self._inflater.eof:
                packed = self._inflater.unused_data.lstrip(b"\0") or self._file.read(_BLOCK).lstrip(b"\0")
                if not packed:
                    return False
                self._inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)  # one gzip file behind another
            else:
                packed = self._inflater.unconsumed_tail or self._file.read(_BLOCK)
            fresh = self._inflater.decompress(packed, _BLOCK)
            if not (packed or fresh or self._inflater.eof):
                raise EOFError("its data ends too early")
        tail = self._block[-_BACK:]
        self._block, self._at = tail + fresh, len(tail) - (len(self._block) - self._at)
        self._end += len(fresh)
        if self._end > self._ceiling:
            raise UnsafeArchiveError(f"{self._path}: expands like a decompression bomb; do not use this file")
        return True


def _tar_files(path: Path, stream: IO[bytes] | _Inflating, limits: Limits) -> Iterator[tuple[str, int, int]]:
    """Safe name, offset and bytes of each file of a tar archive in its order, each once it is in order itself.

    ``tarfile`` only lists: what it would make of a member on extraction never matters. Between two files the
    stream may be read on from, up to the end of the first one.

    Args:
        path: The archive, for messages.
        stream: Its plain bytes.
        limits: What it may hold.

    Raises:
        UnsafeArchiveError: A member must not be read.
        tarfile.TarError: It is damaged; so do other errors say, see ``unpacking``.
    """
    archive = tarfile.TarFile(fileobj=cast("IO[bytes]", stream))
    listing = _Listing(path, limits)
    reached = -1
    while (member := archive.next()) is not None:
        name = listing.add(member.name, member.size, folder=member.isdir())
        if member.type not in _TAR_PLAIN or member.issparse():
            raise _unsafe(path, member.name, "is a link, a device or sparse")
        if member.size < 0 or archive.offset <= reached:
            raise _unsafe(path, member.name, "points backwards")
        reached = archive.offset
        vars(archive)["members"].clear()  # or it keeps them all
        if not member.isdir() and not _is_litter(name):
            yield name, member.offset_data, member.size
    listing.finish()
    stream.seek(archive.offset)
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("its end mark is missing")
    while stream.read(_BLOCK):  # to the end, where gzip has its checksum
        pass


@contextmanager
def unpacking(path: Path, member: str | None = None) -> Iterator[None]:
    """Turn what the standard library says of a bad archive into one line.

    Raises:
        SourceError: Whatever went wrong.
    """
    where = f"{path}: member {member!r}" if member else f"{path}:"
    try:
        yield
    except FedkitError:
        raise
    except Exception as error:  # parsers meet hostile bytes with every kind there is
        if isinstance(error, OSError) and error.strerror:
            raise SourceError(f"{where} cannot be read ({error.strerror}); fix it, or {_AGAIN}") from error
        reason = str(error).strip() or type(error).__name__
        raise SourceError(f"{where} is damaged, cut short or no such archive ({reason}); {_AGAIN}") from error
