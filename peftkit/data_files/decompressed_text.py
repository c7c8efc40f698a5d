"""Opens files as UTF-8 text, decompressed by their content."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, cast

from peftkit.errors import InputError, summarize_error

COMPRESSED = (".gz", ".gzip", ".bz2", ".xz", ".lzma", ".zst", ".lz4")
"""Extensions of supported compressions."""
GZIP, BZIP2, XZ, ZSTANDARD, LZ4 = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18"
ARCHIVES = {b"PK\x03\x04": "a zip archive", b"7z\xbc\xaf": "a 7z archive", b"Rar!": "a rar archive"}
BOM = b"\xef\xbb\xbf"
LFS = b"version https://git-lfs.github.com/spec/"


@contextmanager
def open_binary(file: str) -> Iterator[IO[bytes]]:
    """Opens a file for reading, and decompresses it if it starts with the magic number of a compression.

    Raises:
        InputError: The file cannot be opened, is an archive or a Git LFS pointer, or is truncated.
    """
    try:
        with open(file, "rb") as raw:
            head = raw.peek(64)  # peek, because a pipe is not seekable
            _check_not_archive(file, head)
            with _decompress(file, raw, head) as stream:
                yield stream
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{file}: the compressed file is truncated or damaged ({summarize_error(error)})") from error
    except OSError as error:
        raise InputError(f"{file!r}: {error.strerror or summarize_error(error)}") from error


def _decompress(file: str, raw: IO[bytes], head: bytes) -> IO[bytes]:
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


def _check_not_archive(file: str, head: bytes) -> None:
    """Raises if the file is an archive or a Git LFS pointer."""
    for magic, kind in ARCHIVES.items():
        if head.startswith(magic):
            raise InputError(f"{file}: is {kind}; unpack it first")
    if head.startswith(LFS):
        raise InputError(f"{file}: is a Git LFS pointer; fetch the file with: git lfs pull")


@contextmanager
def open_text(file: str, encoding: str | None = None) -> Iterator[IO[str]]:
    """Opens a file as text without byte order mark; lines keep their line breaks.

    Args:
        file: Path of the file.
        encoding: Its encoding; UTF-8 if unset.

    Raises:
        InputError: The file cannot be opened, or has another encoding.
    """
    utf8 = encoding is None or encoding in ("utf-8", "utf-8-sig")
    try:
        with open_binary(file) as stream:
            line_end = _line_end(file) if utf8 else _decoded_line_end(file, str(encoding))
            text = io.TextIOWrapper(stream, encoding="utf-8-sig" if utf8 else encoding, newline=line_end)
            try:
                yield text
            finally:
                text.detach()
    except UnicodeError as error:
        if utf8:
            raise _not_utf8(file) from error
        reason = f"is not {encoding} ({summarize_error(error)}); set encoding to that of the file"
        raise InputError(f"{file}: {reason}") from error


def check_encoding(file: str, max_characters: int, encoding: str | None = None) -> None:
    """Checks that a file has an encoding, without parsing it.

    Args:
        file: Path of the file.
        max_characters: Number of characters to read at most.
        encoding: The encoding; UTF-8 if unset.

    Raises:
        InputError: The file cannot be opened, or has another encoding; for UTF-8, the message has the line.
    """
    with open_text(file, encoding) as text:
        while max_characters > 0 and (block := text.read(min(max_characters, 1 << 20))):
            max_characters -= len(block)


def decode_lines(stream: Iterable[bytes], name: str) -> Iterator[str]:
    """Decodes the lines of a binary stream lazily, without their line breaks.

    Args:
        stream: Lines that end with a line feed.
        name: Name of the stream, for error messages.

    Raises:
        InputError: A line is not UTF-8, or has a null character.
    """
    number = 0
    for index, raw in enumerate(stream):
        if not index:
            _check_byte_order_mark(raw, name)
            raw = raw.removeprefix(BOM)
        for part in raw.removesuffix(b"\n").removesuffix(b"\r").split(b"\r"):  # classic Mac OS
            number += 1
            try:
                line = part.decode()
            except UnicodeDecodeError as error:
                raise _encoding_error(name, number, part[error.start]) from error
            if "\0" in line:
                raise null_character_error(name, number)
            yield line


def null_character_error(name: str, line: int) -> InputError:
    """Returns the error for a null character, as in binary files and in UTF-16 without a byte order mark.

    Args:
        name: Name of the file.
        line: Number of the line, from 1.
    """
    return InputError(
        f"{name}, line {line}: has a null character; if the file is UTF-16, convert it: "
        "iconv -f UTF-16LE -t UTF-8 OLD > NEW"
    )


def _line_end(file: str) -> str:
    """Returns the line break of a file: a carriage return if the first line ends with one alone, or a line feed."""
    with open_binary(file) as stream:
        head = stream.read(1 << 16)
        while head and b"\n" not in head and b"\r" not in head:
            head = stream.read(1 << 16)
        if head.endswith(b"\r"):
            head += stream.read(1)
    start = head.find(b"\r")
    classic_mac = start >= 0 and b"\n" not in head[: start + 2]
    return "\r" if classic_mac else "\n"


def _decoded_line_end(file: str, encoding: str) -> str:
    """Returns the line break of a file that is not UTF-8 (see ``_line_end``)."""
    with open_binary(file) as stream:
        text = io.TextIOWrapper(stream, encoding=encoding, newline="")
        head = text.readline()  # ends with any line break
        text.detach()
    return "\r" if head.endswith("\r") else "\n"


def _not_utf8(file: str) -> InputError:
    """Returns the error for a file that is not UTF-8, with the number of its first invalid line."""
    try:
        with open_binary(file) as stream:
            for _ in decode_lines(stream, file):
                pass
    except InputError as error:
        return error
    return InputError(f"{file}: is not UTF-8; convert it with iconv")


def _check_byte_order_mark(head: bytes, name: str) -> None:
    """Raises if the file starts with the byte order mark of another encoding."""
    marks = {b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
    for mark, encoding in marks.items():
        if head.startswith(mark):
            raise InputError(
                f"{name}, line 1: is {encoding} instead of UTF-8 (from its byte order mark); convert it: "
                f"iconv -f {encoding} -t UTF-8 OLD > NEW"
            )


def _encoding_error(name: str, line: int, byte: int) -> InputError:
    return InputError(
        f"{name}, line {line}: is not UTF-8 (byte 0x{byte:02x}); convert it from its encoding, for example: "
        "iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW"
    )
