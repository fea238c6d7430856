"""Reading gzipped tar archives once, front to back, at the speed of zlib.

Nothing a member is called ever names a file here; the rules of ``archives`` hold for it all the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

from fedrsic_data.errors import UnsafeArchiveError
from fedrsic_data.raw.archives import DEFAULT_LIMITS, Limits, tar_files, unpacking

_BLOCK = 1024 * 1024  # packed bytes read, and bytes inflated, at a time
_BACK = 512  # bytes that can be gone back: a tar record
_RATIO_FLOOR = 1024 * 1024  # bytes below which any compression ratio is harmless


def files(path: Path, limits: Limits = DEFAULT_LIMITS) -> Iterator[tuple[str, bytes]]:
    """Safe name and content of each file of a gzipped tar, in its order; one file in memory at a time.

    What comes before damage or a member that must not be read is given before the error is raised.

    Raises:
        SourceError: The archive is missing, damaged, cut short or no gzipped tar.
        UnsafeArchiveError: A member must not be read.
    """
    limits = replace(limits, max_json_bytes=limits.max_member_bytes)  # whatever it is called, it is to fit memory
    with unpacking(path), path.open("rb", buffering=0) as file:
        stream = _Inflating(path, file, limits)
        for name, offset, size in tar_files(path, stream, limits):
            stream.seek(offset)
            yield name, stream.take(size)


def names(path: Path, limits: Limits = DEFAULT_LIMITS) -> Iterator[str]:
    """Safe name of each file of a gzipped tar; errors as for ``files``."""
    with unpacking(path), path.open("rb", buffering=0) as file:
        for name, _, _ in tar_files(path, _Inflating(path, file, limits), limits):
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
        if file.read(2) != b"\x1f\x8b":
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
        if not 0 <= size <= _BLOCK:  # as no honest header asks for
            raise UnsafeArchiveError(f"{self._path}: has an oversized header; do not use this file")
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
