"""Third-party notices: the licence texts of everything compiled into a program, from the sources themselves."""

import re
from pathlib import Path

from pipeline.engine import code_digest
from pipeline.errors import SourceError
from pipeline.graph import Action, Work
from pipeline.inputs import Inputs
from pipeline.model import Module
from pipeline.units import Unit

NAMES = re.compile(r"(licen[cs]e|notice|copying|copyright|patents)([._-].*)?", re.IGNORECASE)
"""Files at a module's top that hold its terms."""
MAX_TEXT = 1 << 20


def notices_action(unit: Unit, inputs: Inputs) -> Action:
    """The action that collects the texts for `unit` into `notices.txt`: Go itself and each dependency."""

    def run(work: Work) -> None:
        inputs.ensure(unit)
        modules = [
            m for m in inputs.modules(unit) if m != getattr(inputs.locked.lock.mains.get(unit.name), "module", None)
        ]
        text = _render(unit, [(m, inputs.store.gomod / m.directory) for m in modules])
        (work.out / "notices.txt").write_bytes(text.encode())

    return Action(
        name=f"notices/{unit.name}",
        parameters={"code": str(code_digest("pack/notices.py")), "sources": inputs.identity(unit)},
        run=run,
        seconds=1.0,
    )


def _render(unit: Unit, modules: list[tuple[Module, Path]]) -> str:
    parts = [f"{unit.component} contains the following third-party software. The texts are those of its sources.\n"]
    for module, folder in modules:
        name = (
            f"Go standard library and runtime ({module.version})"
            if module.path == "golang.org/toolchain"
            else str(module)
        )
        parts.append(f"\n{'=' * 78}\n{name}\n")
        texts = licence_files(folder)
        if not texts:
            parts.append("(Its source has no licence file at the top.)\n")
        parts += [f"{'-' * 78}\n{f.name}\n\n{read_terms(f, str(module))}\n" for f in texts]
    return "".join(parts)


def licence_files(folder: Path) -> list[Path]:
    """The files at the top of an unpacked source that hold its terms, sorted."""
    return [f for f in sorted(folder.iterdir()) if f.is_file() and NAMES.fullmatch(f.name)]


def read_terms(file: Path, what: str) -> str:
    """The text of a licence file of `what`; raises SourceError if it is larger than `MAX_TEXT`."""
    if file.stat().st_size > MAX_TEXT:
        raise SourceError(f"{what}: {file.name} is larger than {MAX_TEXT} bytes; notices would lack it")
    return file.read_text(encoding="utf-8", errors="replace").strip()
