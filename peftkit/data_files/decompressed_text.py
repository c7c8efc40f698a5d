"""Opens files as text, decompressed by their content, also inside zip archives."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO, Any, cast

from peftkit.data_files.charset_detection import guess_encoding, marked_encoding
from peftkit.data_files.zip_archives import open_member, split_member
from peftkit.errors import InputError, summarize_error

COMPRESSED = (".gz", ".gzip", ".bz2", ".xz", ".lzma", ".zst", ".lz4")
"""Extensions of supported compressions."""
GZIP, BZIP2, XZ, ZSTANDARD, LZ4 = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18"
ARCHIVES = {
    b"PK\x03\x04": "is a zip archive; give it the extension .zip",
    b"7z\xbc\xaf": "is a 7z archive; unpack it first",
    b"Rar!": "is a rar archive; unpack it first",
}
HEAD = 1 << 26
"""Number of bytes from which the encoding of a file is guessed."""
BOM = b"\xef\xbb\xbf"
LFS = b"version https://git-lfs.github.com/spec/"


@contextmanager
def open_binary(file: str) -> Iterator[IO[bytes]]:
    """Opens a file for reading, and decompresses it if it starts with the magic number of a compression.

    Args:
        file: Path of the file; ``::`` separates an archive from a file inside.

    Raises:
        InputError: The file cannot be opened, is an archive or a Git LFS pointer, or is truncated.
    """
    try:
        with _open_raw(file) as raw:
            head = raw.peek(64)  # peek, because a pipe is not seekable
            _check_not_archive(file, head)
            with _decompress(raw, head) as stream:
                yield stream
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{file}: the compressed file is truncated or damaged ({summarize_error(error)})") from error
    except OSError as error:
        raise InputError(f"{file!r}: {error.strerror or summarize_error(error)}") from error


def _open_raw(file: str) -> AbstractContextManager[Any]:
    """Returns a context that opens a file without decompressing it; what it opens has a ``peek``."""
    archive, member = split_member(file)
    return open(file, "rb") if member is None else open_member(archive, member)


def is_compressed(file: str) -> bool:
    """Returns whether a file is compressed, or inside an archive.

    Raises:
        InputError: The file cannot be opened.
    """
    if split_member(file)[1] is not None:
        return True
    try:
        with open(file, "rb") as raw:
            head = raw.read(8)
    except OSError as error:
        raise InputError(f"{file!r}: {error.strerror or summarize_error(error)}") from error
    return head.startswith((GZIP, BZIP2, XZ, ZSTANDARD, LZ4))


def _decompress(raw: Any, head: bytes) -> IO[bytes]:
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
    opened: IO[bytes] = raw
    return opened


def _check_not_archive(file: str, head: bytes) -> None:
    """Raises if the file is an archive or a Git LFS pointer."""
    for magic, problem in ARCHIVES.items():
        if head.startswith(magic):
            raise InputError(f"{file}: {problem}")
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
        reason = f"is not {encoding} ({summarize_error(error)}); {_encoding_remedy(file)}"
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


def file_encoding(file: str) -> str | None:
    """Returns the likely encoding of a file, named as in Python; None if it is UTF-8 or unknown.

    Raises:
        InputError: The file cannot be opened.
    """
    with open_binary(file) as stream:
        return guess_encoding(stream.read(HEAD))


def decode_lines(stream: Iterable[bytes], name: str, file: str | None = None) -> Iterator[str]:
    """Decodes the lines of a binary stream lazily, without their line breaks.

    Args:
        stream: Lines that end with a line feed.
        name: Name of the stream, for error messages.
        file: The file that the stream reads, whose encoding may be set; None for streams that have to be UTF-8.

    Raises:
        InputError: A line is not UTF-8, or has a null character.
    """
    number = 0
    for index, raw in enumerate(stream):
        if not index:
            if encoding := marked_encoding(raw):
                remedy = _convert(encoding) if file is None else _encoding_remedy(file)
                reason = f"is {encoding.upper()} instead of UTF-8 (from its byte order mark)"
                raise InputError(f"{name}, line 1: {reason}; {remedy}")
            raw = raw.removeprefix(BOM)
        for part in raw.removesuffix(b"\n").removesuffix(b"\r").split(b"\r"):  # classic Mac OS
            number += 1
            try:
                line = part.decode()
            except UnicodeDecodeError as error:
                remedy = _convert("cp1252") if file is None else _encoding_remedy(file)
                byte = part[error.start]
                raise InputError(f"{name}, line {number}: is not UTF-8 (byte 0x{byte:02x}); {remedy}") from error
            if "\0" in line:
                raise null_character_error(name, number, file)
            yield line


def null_character_error(name: str, line: int, file: str | None = None) -> InputError:
    """Returns the error for a null character, as in binary files and in UTF-16 without a byte order mark.

    Args:
        name: Name of the file or stream.
        line: Number of the line, from 1.
        file: The file, if its encoding may be set.
    """
    remedy = f"if the text is UTF-16, {_convert('utf-16-le')}"
    if file is not None:
        guess = file_encoding(file)
        remedy = _encoding_remedy(file) if guess else "remove it, or convert the file to text if it is binary"
    return InputError(f"{name}, line {line}: has a null character; {remedy}")


def _convert(encoding: str) -> str:
    return f"convert it from its encoding, for example: iconv -f {encoding.upper()} -t UTF-8 OLD > NEW"


def _encoding_remedy(file: str) -> str:
    """Returns what to set for a file with another encoding."""
    guess = file_encoding(file)
    if guess == "cp1252":
        return 'set encoding = "cp1252" if it is Western European text, or to the encoding it was saved with'
    if guess:
        return f'set encoding = "{guess}"'
    return 'set encoding to the one it was saved with, such as encoding = "cp1252"'


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
            for _ in decode_lines(stream, file, file):
                pass
    except InputError as error:
        return error
    return InputError(f"{file}: is not UTF-8; {_encoding_remedy(file)}")
