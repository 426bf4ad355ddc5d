"""`rfo-verify`: the modules of `pipeline.verifier` written one after the other into one file (ADR 13)."""

import ast
import base64
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

VERIFIER = Path(__file__).parent.parent / "verifier"
WIDTH = 120
ENTRY = "command"
"""The module that comes last, with the function `main`."""
PACKAGE = "pipeline.verifier."
NO_ROOT = 'FIRST_ROOT = ""'
"""Where the root goes."""
HEADER = '''\
#!/usr/bin/env python3
"""Check a release of RFO before it is used: who made it, who made it again, and that no byte was changed since.

It needs Python 3.9 or later and `openssl` (1.1.1 or 3), opens no socket, and refuses what it is not sure of.
This file is generated from the modules named below, in the order in which they build on each other.

{modules}
"""
'''


def render_verifier(root: bytes = b"") -> bytes:
    """The program as one file, with the root that it trusts at first if there is one.

    Raises ValueError for modules that cannot stand in one file.
    """
    texts = {name: (VERIFIER / f"{name}.py").read_text() for name in _ordered()}
    imports: set[str] = set()
    bodies = []
    owners: dict[str, str] = {}
    for name, text in texts.items():
        tree = ast.parse(text)
        for defined in _names(tree):
            if owners.setdefault(defined, name) != name:
                raise ValueError(f"{defined} is defined in {owners[defined]} and in {name}")
        imports |= set(_foreign(tree))
        bodies.append(f"\n\n# --- {name}\n{_wrapped(_first_line(tree), '# ')}\n\n{_body(tree, text)}\n")
    listed = "\n".join(f"  {name}:\n{_wrapped(_first_line(ast.parse(text)), '    ')}" for name, text in texts.items())
    carried = base64.b64encode(root).decode()
    bodies = [body.replace(NO_ROOT, f'FIRST_ROOT = "{carried}"') for body in bodies]
    head = (
        HEADER.format(modules=listed) + "\nfrom __future__ import annotations\n\n" + "\n".join(sorted(imports)) + "\n"
    )
    return (head + "".join(bodies) + '\n\nif __name__ == "__main__":\n    sys.exit(main(sys.argv[1:]))\n').encode()


def _ordered() -> list[str]:
    """The modules, each after those that it imports, beginning with what ENTRY needs first."""
    found: list[str] = []

    def add(name: str) -> None:
        if name not in found:
            for needed in _ours(ast.parse((VERIFIER / f"{name}.py").read_text())):
                add(needed)
            found.append(name)

    add(ENTRY)
    return found


def _ours(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
            if any(alias.asname for alias in node.names):
                raise ValueError(f"{node.module} is imported under another name")
            yield str(node.module).removeprefix(PACKAGE)


def _foreign(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.Import) or (
            isinstance(node, ast.ImportFrom) and node.module != "__future__" and not _own(node)
        ):
            for alias in node.names:
                yield ast.unparse(
                    ast.Import([alias]) if isinstance(node, ast.Import) else ast.ImportFrom(node.module, [alias], 0)
                )


def _own(node: ast.ImportFrom) -> bool:
    return (node.module or "").startswith(PACKAGE)


def _body(tree: ast.Module, text: str) -> str:
    """The module's text without its docstring and imports, comments kept."""
    lines = text.splitlines()
    start = 0
    for node in tree.body:
        docstring = isinstance(node, ast.Expr) and node is tree.body[0]
        if docstring or isinstance(node, (ast.Import, ast.ImportFrom)):
            start = node.end_lineno or start
    return "\n".join(lines[start:]).strip("\n")


def _first_line(tree: ast.Module) -> str:
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent)


def _names(tree: ast.Module) -> Iterator[str]:
    """What a module defines at its top."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets: Sequence[ast.expr] = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name))
