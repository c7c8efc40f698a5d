"""Files as lines of text: decompressed by their content, and decoded as UTF-8 or refused with the line."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, cast

from peftkit.errors import InputError, one_line

COMPRESSED = (".gz", ".gzip", ".bz2", ".xz", ".lzma", ".zst", ".lz4")
"""The file extensions of compressions that are read."""
GZIP, BZIP2, XZ, ZSTANDARD, LZ4 = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18"
ARCHIVES = {b"PK\x03\x04": "a zip archive", b"7z\xbc\xaf": "a 7z archive", b"Rar!": "a rar archive"}
BOM = b"\xef\xbb\xbf"
LFS = b"version https://git-lfs.github.com/spec/"


@contextmanager
def open_binary(file: str) -> Iterator[IO[bytes]]:
    """Opens a file for reading, decompressed if its first bytes are those of a compression.

    Raises:
        InputError: the file cannot be opened, is an archive or a Git LFS pointer, or is cut off.
    """
    try:
        with open(file, "rb") as raw:
            head = raw.peek(64)  # a pipe cannot be rewound
            _refuse_foreign(file, head)
            with _decompressed(file, raw, head) as stream:
                yield stream
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{file}: the compressed file is cut off or damaged ({one_line(error)})") from error
    except OSError as error:
        raise InputError(f"{file!r}: {error.strerror or one_line(error)}") from error


def _decompressed(file: str, raw: IO[bytes], head: bytes) -> IO[bytes]:
    if head.startswith(GZIP):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=raw))
    if head.startswith(BZIP2):
        return bz2.BZ2File(raw)
    if head.startswith(XZ):
        return lzma.LZMAFile(raw)
    if head.startswith((ZSTANDARD, LZ4)):
        import pyarrow as pa

        stream = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd" if head.startswith(ZSTANDARD) else "lz4")
        return io.BufferedReader(cast("io.RawIOBase", stream))
    return raw


def _refuse_foreign(file: str, head: bytes) -> None:
    """Refuses what is no file of rows whatever its name says."""
    for magic, kind in ARCHIVES.items():
        if head.startswith(magic):
            raise InputError(f"{file}: is {kind}; unpack it first")
    if head.startswith(LFS):
        raise InputError(f"{file}: is a Git LFS pointer and not the file itself; fetch it with: git lfs pull")


@contextmanager
def open_text(file: str) -> Iterator[IO[str]]:
    """Opens a file as text whose lines keep their ends, a byte order mark left out.

    Raises:
        InputError: the file cannot be opened, or is not UTF-8.
    """
    try:
        with open_binary(file) as stream:
            text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline=_line_end(file))
            try:
                yield text
            finally:
                text.detach()
    except UnicodeDecodeError as error:
        raise _not_utf8(file) from error


def decoded_lines(stream: Iterable[bytes], name: str) -> Iterator[str]:
    """Decodes the lines of a binary stream, without their ends, as they come.

    Args:
        stream: lines that end with a line feed.
        name: what messages call the stream.

    Raises:
        InputError: a line is not UTF-8, or holds a null character.
    """
    number = 0
    for index, raw in enumerate(stream):
        if not index:
            _refuse_utf16(raw, name)
            raw = raw.removeprefix(BOM)
        for part in raw.removesuffix(b"\n").removesuffix(b"\r").split(b"\r"):  # a lone one is an old Mac's line end
            number += 1
            try:
                line = part.decode()
            except UnicodeDecodeError as error:
                raise _encoding_error(name, number, part[error.start]) from error
            if "\0" in line:
                raise null_character(name, number)
            yield line


def null_character(name: str, line: int) -> InputError:
    """The error for a line that holds a null character, as binary files and UTF-16 without a mark do."""
    return InputError(
        f"{name}, line {line}: holds a null character; if the file is UTF-16, convert it: "
        "iconv -f UTF-16LE -t UTF-8 OLD > NEW"
    )


def _line_end(file: str) -> str:
    """What ends the lines of a file: a carriage return alone only where the first line ends with one."""
    with open_binary(file) as stream:
        head = stream.read(1 << 16)
        while head and b"\n" not in head and b"\r" not in head:
            head = stream.read(1 << 16)
        if head.endswith(b"\r"):
            head += stream.read(1)
    start = head.find(b"\r")
    old_mac = start >= 0 and b"\n" not in head[: start + 2]
    return "\r" if old_mac else "\n"


def _not_utf8(file: str) -> InputError:
    """The error for a file that is not UTF-8, with the first line that is not."""
    try:
        with open_binary(file) as stream:
            for _ in decoded_lines(stream, file):
                pass
    except InputError as error:
        return error
    return InputError(f"{file}: is not UTF-8; convert it with iconv")


def _refuse_utf16(head: bytes, name: str) -> None:
    """Refuses what begins with the byte order mark of another encoding.

    Raises:
        InputError: it does.
    """
    marks = {b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
    for mark, encoding in marks.items():
        if head.startswith(mark):
            raise InputError(
                f"{name}, line 1: is not UTF-8 but {encoding} (it begins with its byte order mark); convert it: "
                f"iconv -f {encoding} -t UTF-8 OLD > NEW"
            )


def _encoding_error(name: str, line: int, byte: int) -> InputError:
    return InputError(
        f"{name}, line {line}: is not UTF-8 (byte 0x{byte:02x}); convert it from its encoding, such as: "
        "iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW"
    )
