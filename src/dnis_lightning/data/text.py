"""Text files as they lie there, plain, compressed or in an archive, read in blocks of whole lines."""

from __future__ import annotations

import contextlib
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pyarrow as pa

from dnis_lightning.data.quotes import whole_rows
from dnis_lightning.errors import DataError

BLOCK_BYTES = 8 << 20
_END_BYTES = 1 << 16
_CODECS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
_TARS = (".tar", ".tar.gz", ".tgz")
_BOM = b"\xef\xbb\xbf"
_NEWLINE = b"\n"[0]
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    NotImplementedError,
)


@dataclass(frozen=True)
class Block:
    """Whole lines of a file.

    text: ends with a newline. first: the number of its first line, from 1. done: the share of the file read so far.
    """

    text: bytes
    first: int
    done: float


@dataclass(frozen=True)
class TextFile:
    """A text file, compressed (.gz, .zst, .bz2) or not, or a member of a zip or tar archive, read without unpacking it.

    member: the name of the file in the archive; in a tar archive the last part of it is enough.
    """

    path: Path
    member: str | None = None

    def where(self, line: int) -> str:
        """`file:line`, for messages."""
        return f"{self.path}{f'[{self.member}]' if self.member else ''}:{line}"

    def identity(self) -> dict[str, Any]:
        """What changes when the file does. Raises DataError when it cannot be read."""
        with self._readable():
            stat = self.path.stat()
            if not self.path.is_file():
                found = "a folder" if self.path.is_dir() else "a pipe or device"
                raise DataError(f"{self.path}: {found}, expected a file; is the path right?")
            if self.member is None or self._is_tar:
                size, changed = stat.st_size, stat.st_mtime_ns
                return {"file": self.path.name, "size": size, "changed": changed, "crc": _crc_of_ends(self.path, size)}
            with zipfile.ZipFile(self.path) as archive:
                info = self._info(archive)
                return {"file": self.member, "size": info.file_size, "crc": info.CRC}

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """For the time of reading. Raises DataError at the end when the file is another than at the beginning."""
        before = self.identity()
        yield
        if self.identity() != before:
            raise DataError(f"{self.path}: it has changed while it was read; wait until it is whole and start again")

    def blocks(self, size: int = BLOCK_BYTES, quoted: bytes | None = None) -> Iterator[Block]:
        """The file in blocks of about `size` bytes, cut at line ends; blank lines at the end are left out.

        quoted: the separator, where a line end between double quotes is part of a value, and no place to cut at.
        Raises DataError when the file cannot be read, is empty, changes meanwhile, or has a line longer than a block.
        """
        held = None
        with self.unchanged(), self._readable(), self._opened() as (file, share):
            for text, first in self._lines(file, size, quoted):
                if held is not None:
                    yield held
                held = Block(text, first, min(share(), 1.0))
        if held is None:
            raise DataError(f"{self.where(1)}: the file is empty; get it again")
        yield replace(held, done=1.0)

    def _lines(self, file: IO[bytes], size: int, quoted: bytes | None) -> Iterator[tuple[bytes, int]]:
        """Whole lines, and the number of the first of them."""
        rest, line, begun = b"", 1, False
        while True:
            data = _more(file, rest, max(size, len(_BOM) + 1))
            if len(data) == len(rest):
                break
            if not begun and data.startswith(_BOM):
                del data[: len(_BOM)]
            begun, cut = True, _cut(data, quoted)
            rest = bytes(data[cut:])
            del data[cut:]
            if len(rest) > size:
                why = "a quote that is not closed, or no text file?" if quoted else "is this a text file?"
                raise DataError(f"{self.where(line)}: a line of more than {size} bytes; {why}")
            if data:
                yield cast(bytes, data), line  # what is asked of it, a bytearray can as well
                line += int(np.count_nonzero(np.frombuffer(data, np.uint8) == _NEWLINE))
        if rest.strip(b"\r\n"):
            yield rest.rstrip(b"\r\n") + b"\n", line

    @property
    def _is_tar(self) -> bool:
        return self.path.name.endswith(_TARS)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[IO[bytes], Any]]:
        """The open file, and a function that gives the share of it that has been read."""
        if self.member is not None and not self._is_tar:
            with zipfile.ZipFile(self.path) as archive:
                info = self._info(archive)
                if info.flag_bits & 1:
                    raise DataError(f"{self.path}: the archive has a password; unpack it beside itself")
                with archive.open(info) as member:
                    yield member, lambda: member.tell() / max(info.file_size, 1)
            return
        with self.path.open("rb") as raw:
            size = max(self.path.stat().st_size, 1)
            with self._unpacked(raw) as file:
                yield file, lambda: raw.tell() / size

    @contextlib.contextmanager
    def _unpacked(self, raw: IO[bytes]) -> Iterator[IO[bytes]]:
        codec = "gzip" if self.path.suffix == ".tgz" else _CODECS.get(self.path.suffix)
        with contextlib.ExitStack() as stack:
            stream = raw
            if codec:
                arrow = stack.enter_context(pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), codec))
                stream = io.BufferedReader(arrow, 1 << 20)
            if not self._is_tar:
                yield stream
                return
            with tarfile.open(fileobj=stream, mode="r|", bufsize=1 << 20) as archive:
                yield self._member(archive)
                while codec and stream.read(1 << 20):  # the checksum is at the end
                    pass

    def _member(self, archive: tarfile.TarFile) -> IO[bytes]:
        seen = []
        for info in archive:
            seen.append(info.name)
            if info.isfile() and Path(info.name).name == self.member:
                file = archive.extractfile(info)
                assert file is not None, "regular files have contents"
                return file
        raise DataError(f"{self.path}: no {self.member} in this archive, which has {_some(seen)}; is it the right one?")

    def _info(self, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
        try:
            return archive.getinfo(str(self.member))
        except KeyError:
            there = _some(archive.namelist())
            raise DataError(
                f"{self.path}: no {self.member} in this archive, which has {there}; is it the right one?"
            ) from None

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (OSError, *_DAMAGED) as fault:
            if isinstance(fault, OSError) and fault.errno is not None:
                raise DataError(f"{self.path}: cannot be read ({fault.strerror}); is the path right?") from fault
            kind, then = f"{self.path.suffix} file", "get it again"
            if self._is_tar and not isinstance(fault, OSError):
                kind = "tar archive"
            elif self.member is not None and not self._is_tar:
                kind, then = "zip archive", "delete it, so that it is got again"
            reason = str(fault).rstrip(".") or "it ends too early"
            raise DataError(f"{self.path}: not a whole {kind} ({reason}); {then}") from fault


def _crc_of_ends(path: Path, size: int) -> int:
    """A checksum of the first and the last bytes: files of other folders may be alike in name, size and time."""
    with path.open("rb") as file:
        crc = zlib.crc32(file.read(_END_BYTES))
        file.seek(max(size - _END_BYTES, 0))
        return zlib.crc32(file.read(_END_BYTES), crc)


def _more(file: IO[bytes], rest: bytes, size: int) -> bytearray:
    """What is left, and up to `size` bytes more behind it; read in place, as copies would take longer than that."""
    data = bytearray(len(rest) + size)
    data[: len(rest)] = rest
    end = len(rest)
    with memoryview(data) as view:
        while end < len(data) and (got := file.readinto(view[end:])):  # type: ignore[attr-defined]
            end += got
    del data[end:]
    return data


def _cut(data: bytearray, quoted: bytes | None) -> int:
    """Where whole lines end; blank lines at the end are not among them."""
    end = len(data.rstrip(b"\r\n")) if data.endswith((b"\n", b"\r")) else len(data)  # spares a copy
    if not end:
        return 0
    newline = data.find(b"\n", end)
    cut = (newline if newline >= 0 else data.rfind(b"\n")) + 1
    return whole_rows(cast(bytes, data), cut, quoted) if quoted and cut else cut


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "") if names else "nothing"
