"""Module zips that the user gives in place of an origin (`--source COMPONENT=FILE`).

The file becomes a module proxy on disk that is asked first. It is trusted no more than any origin: the go command
checks it against the checksum database, and a sum in the definition has to agree as well.
"""

import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from pipeline.errors import SourceError, UsageError
from pipeline.lock import write_atomically
from pipeline.model import CHUNK, Digest, escape_module
from pipeline.sources.go import GoSources
from pipeline.units import Unit

MAX_ZIP = 500 << 20
"""Bytes; Go's own limit for module zips (https://go.dev/ref/mod#zip-path-size-constraints)."""
MAX_MOD = 16 << 20


def add_given_modules(go: GoSources, files: Mapping[str, Path], units: Sequence[Unit], date: datetime) -> None:
    """Offer each file as the main module of the component it is given for. Raises UsageError, SourceError."""
    for name, file in files.items():
        found = [u for u in units if u.component == name and u.source.go]
        if not found:
            raise UsageError(f"--source {name}: the release has no component {name} with a Go module")
        unit, mod = _match(file, found)
        folder = go.store.root / "given" / Digest.of_file(file).hex / escape_module(str(unit.source.go)) / "@v"
        version = escape_module(unit.source_version)
        info = {"Version": unit.source_version, "Time": date.strftime("%Y-%m-%dT%H:%M:%SZ")}
        write_atomically(folder / f"{version}.info", json.dumps(info).encode())
        write_atomically(folder / f"{version}.mod", mod)
        copy = folder / f"{version}.zip"
        if not copy.exists():
            write_atomically(copy, file.read_bytes())
        root = folder
        for _ in str(unit.source.go).split("/"):
            root = root.parent
        go.extra_proxies.append(root.parent.as_uri())


def _match(file: Path, units: list[Unit]) -> tuple[Unit, bytes]:
    """The unit whose module the zip holds, and its go.mod; every member name must belong to it."""
    try:
        if file.stat().st_size > MAX_ZIP:
            raise SourceError(f"{file}: larger than {MAX_ZIP // CHUNK} MiB, the limit of module zips")
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            unit = next((u for u in units if all(n.startswith(f"{u.module}/") for n in names)), None)
            if unit is None or not names:
                wanted = " or ".join(sorted({u.module for u in units}))
                raise SourceError(f"{file}: expected the module zip of {wanted}; it holds {str(names[:1])[:160]}")
            info = archive.getinfo(f"{unit.module}/go.mod")
            if info.file_size > MAX_MOD:
                raise SourceError(f"{file}: go.mod is larger than {MAX_MOD} bytes")
            for name in names:
                if ".." in name.split("/") or "\\" in name or "\0" in name:
                    raise SourceError(f"{file}: member {name[:120]!r} leaves its root")
            return unit, archive.read(info)
    except KeyError:
        raise SourceError(f"{file}: holds no go.mod") from None
    except FileNotFoundError:
        raise UsageError(f"{file} does not exist") from None
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        # RuntimeError: an encrypted member, or (as NotImplementedError) an unknown compression.
        raise SourceError(f"{file}: not a readable zip file ({error})") from error
