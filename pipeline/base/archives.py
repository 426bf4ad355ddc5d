"""Read Debian binary packages (deb(5)) without dpkg: an `ar` archive with a compressed tar inside. Reads files only.

The reader is strict where dpkg is lenient, since it meets only what a distribution's archive has accepted: exactly
debian-binary, control.tar and data.tar in this order, and nothing after them.
"""

import io
import lzma
import sys
import zlib
from collections.abc import Callable
from importlib import import_module
from typing import IO, Protocol

from pipeline.errors import SourceError
from pipeline.extract import MAX_BYTES, Readable

MAGIC = b"!<arch>\n"
MAX_DECODER_MEMORY = 256 << 20
"""Bytes a decompressor may use: `xz -9` needs 65 MiB, a forged header could ask for 4 GiB."""
INPUT = 1 << 18
"""Compressed bytes given to a decompressor at a time."""


class Decoder(Protocol):
    """What lzma, zstd and the gzip adapter below have in common: the interface of `lzma.LZMADecompressor`."""

    @property
    def eof(self) -> bool:
        """The end of the stream was seen."""

    @property
    def needs_input(self) -> bool:
        """Nothing more comes out until more is put in."""

    @property
    def unused_data(self) -> bytes:
        """What follows the end of the stream."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most `max_length` plain bytes."""


class Gzip:
    """zlib with the interface of the other decompressors."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)  # 16 + 15: with a gzip header

    @property
    def eof(self) -> bool:
        """The end of the stream was seen."""
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        """Nothing more comes out until more is put in."""
        return not self._zlib.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        """What follows the end of the stream."""
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most `max_length` plain bytes."""
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)


def open_zstd() -> Decoder:
    """A zstd decoder whose window, and so its memory, is bounded."""
    zstd = import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    decoder: Decoder = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: 27})  # 128 MiB
    return decoder


_DECODERS: dict[str, Callable[[], Decoder]] = {
    "data.tar.xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_DECODER_MEMORY),
    "data.tar.zst": open_zstd,
    "data.tar.gz": Gzip,
}


class Decompressed:
    """The plain content of one compressed stream: bounded in memory, read once from start to end.

    Raises SourceError when the stream is damaged, ends early, yields more than `max_bytes`, or more data follows it.
    """

    def __init__(self, stream: Readable, decoder: Decoder, what: str, max_bytes: int = MAX_BYTES) -> None:
        self._stream, self._decoder, self._what, self._left = stream, decoder, what, max_bytes

    def read(self, size: int, /) -> bytes:
        """Up to `size` plain bytes; nothing at the end."""
        while not self._decoder.eof:
            data = self._stream.read(INPUT) if self._decoder.needs_input else b""
            if self._decoder.needs_input and not data:
                raise SourceError(f"{self._what}: the compressed data ends too early")
            try:
                plain = self._decoder.decompress(data, size)
            except (lzma.LZMAError, zlib.error, ValueError) as error:
                raise SourceError(f"{self._what}: damaged compressed data ({error})") from error
            except Exception as error:  # zstd's own error type needs its import
                if type(error).__name__ != "ZstdError":
                    raise
                raise SourceError(f"{self._what}: damaged compressed data ({error})") from error
            self._left -= len(plain)
            if self._left < 0:
                raise SourceError(f"{self._what}: unpacks to more bytes than allowed (decompression bomb?)")
            if plain:
                return plain
        if self._decoder.unused_data or self._stream.read(1):
            raise SourceError(f"{self._what}: data follows the compressed stream")
        return b""


class _Part:
    """A range of an open file."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left = file, size

    def read(self, size: int, /) -> bytes:
        data = self._file.read(min(size, self._left))
        self._left -= len(data)
        return data


def open_data(file: IO[bytes], what: str) -> Readable:
    """The uncompressed data.tar of the .deb open in `file`, as a stream; raises SourceError if it is no such package.

    Format: https://manpages.debian.org/deb.5 (the `ar` header is 60 bytes of text; members start at even offsets).
    """
    length = file.seek(0, io.SEEK_END)
    file.seek(0)
    if file.read(len(MAGIC)) != MAGIC:
        raise SourceError(f"{what}: not a Debian package (no ar archive)")
    offset = len(MAGIC)
    for number, expected in enumerate(("debian-binary", "control.tar", "data.tar")):
        file.seek(offset)
        header = file.read(60)
        name, digits = header[:16].decode("latin-1").rstrip().removesuffix("/"), header[48:58].rstrip()
        if len(header) != 60 or header[58:] != b"`\n" or not digits.isdigit():
            raise SourceError(f"{what}: member {number + 1} of the ar archive has no valid header")
        size = int(digits)
        offset += 60 + size + size % 2
        known = name == expected if not number else name.split(".")[:2] == expected.split(".")
        if not known:
            raise SourceError(f"{what}: expected the ar member {expected}, found {name!r}")
        if offset - size % 2 > length:
            raise SourceError(f"{what}: the ar member {name} is cut off")
        if not number and file.read(size)[:2] != b"2.":
            raise SourceError(f"{what}: unknown version of the package format")
    if offset < length:
        raise SourceError(f"{what}: data follows the last ar member")
    part = _Part(file, size)
    if name == "data.tar":
        return part
    if name not in _DECODERS:
        raise SourceError(f"{what}: {name}: unknown compression; known: {', '.join(sorted(_DECODERS))}")
    return Decompressed(part, _DECODERS[name](), what)
