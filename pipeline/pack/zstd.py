"""Write zstd (RFC 8878) with one library, one level and one thread: equal input gives equal bytes."""

import sys
from contextlib import AbstractContextManager
from importlib import import_module
from typing import IO, Any

LEVEL = 3
"""zstd's own default: what goes in is mostly packages that are compressed already, or source code."""


def compress(file: IO[bytes]) -> AbstractContextManager[IO[bytes]]:
    """A stream whose bytes reach `file` as one zstd frame with a checksum, complete once it is closed."""
    zstd: Any = import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    parameter = zstd.CompressionParameter
    stream: AbstractContextManager[IO[bytes]] = zstd.ZstdFile(
        file, "wb", options={parameter.compression_level: LEVEL, parameter.checksum_flag: 1}
    )
    return stream
