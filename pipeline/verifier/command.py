"""The command line of `rfo-verify` (docs/verify.md)."""

from __future__ import annotations

import argparse
import base64
import gc
import os
import re
import sys
import time
from pathlib import Path

from pipeline.verifier.clock import read_time
from pipeline.verifier.encoding import Refused
from pipeline.verifier.openssl import HostLacks, find_openssl
from pipeline.verifier.report import (
    ACCEPTED,
    HOST,
    REFUSED,
    USAGE,
    Report,
    plain,
    render_json,
    render_reasons,
    render_refused,
    render_table,
)
from pipeline.verifier.repository import REPO_ID, REPO_NAME, verify_repository
from pipeline.verifier.scope import Scope, images_of
from pipeline.verifier.selftest import self_test
from pipeline.verifier.state import STATE, State, read_state, write_state
from pipeline.verifier.tuf import MAX_ROOT
from pipeline.verifier.unpack import unpack
from pipeline.verifier.verify import Options, verify, wanted
from pipeline.verifier.versions import compare_versions, read_version

FIRST_ROOT = ""
"""The root that this file carries, in base64: the one that is trusted where nothing else is named."""
_ARCH = re.compile(r"[a-z0-9]{1,16}")


def main(arguments: list[str]) -> int:
    """Run the command; returns its exit code."""
    code, line = REFUSED, ""
    gc.disable()  # a short life, in which large documents are read once
    try:
        return _run(_parser().parse_args(arguments))
    except SystemExit as stop:  # argparse has said why
        code = int(stop.code or 0)
    except _Usage as error:
        code, line = USAGE, f"usage: {error}\n"
    except HostLacks as error:
        code, line = HOST, f"host: {error}\n"
    except Refused as refused:
        line = render_refused(refused)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:  # whatever else happens, nothing was accepted
        if "RFO_DEBUG" in os.environ:
            raise
        line = f"refused: rfo-verify cannot judge this: {plain(repr(error))}\n"
    print(line, end="", file=sys.stderr)
    return code


class _Usage(Exception):
    """The command line asks for something that cannot be."""


def _run(asked: argparse.Namespace) -> int:
    if asked.self_test:
        print(self_test())
        return ACCEPTED
    if asked.compare:
        print(compare_versions(*asked.compare))
        return ACCEPTED
    if asked.unpack:
        return _unpack(asked)
    folder = Path(asked.state or STATE)
    if asked.record_installed:
        state = read_state(folder)
        read_version(asked.record_installed, "--record-installed")
        state.installed = asked.record_installed
        write_state(state)
        return ACCEPTED
    if not asked.release and not asked.repo:
        raise _Usage("nothing to do: name a release with --release DIR; --help lists the rest")
    if asked.repo and (asked.release or asked.purpose or asked.wanted or asked.expect_version):
        raise _Usage("--repo goes with no --release, --for, --wanted and --expect-version: a repository has many")
    if not REPO_ID.fullmatch(asked.repo_name):
        raise _Usage("--repo-name is a word, such as rfo-testing")
    find_openssl()
    state = read_state(folder)
    root = _root(asked, state)
    options = _options(asked, state)
    if asked.wanted:
        for path, limit in wanted(Path(asked.release), root, options):
            print(f"{path}\t{limit}")
        return ACCEPTED
    if asked.repo:
        report = verify_repository(Path(asked.repo), root, options, asked.repo_name)
    else:
        report = verify(Path(asked.release), root, options)
    if report.exit_code == ACCEPTED and (asked.state or asked.purpose or asked.repo):
        _remember(report, explicit=bool(asked.state))
    print_report(report, as_json=asked.json)
    return report.exit_code


def _unpack(asked: argparse.Namespace) -> int:
    if not asked.to or not asked.digest:
        raise _Usage("--unpack TARBALL needs --to FOLDER and --digest HEX")
    digest = asked.digest[7:] if asked.digest.startswith("sha256:") else asked.digest
    for name in unpack(Path(asked.unpack), Path(asked.to), digest):
        print(name)
    return ACCEPTED


def _root(asked: argparse.Namespace, state: State) -> bytes:
    """The root that the caller trusts: the one that is named, else that of this file, else the host's."""
    if asked.root:
        try:
            with open(asked.root, "rb") as file:
                return file.read(MAX_ROOT + 1)
        except OSError as error:
            raise _Usage(f"{asked.root}: {error.strerror}") from error
    if FIRST_ROOT:
        return base64.b64decode(FIRST_ROOT)
    if state.root:
        return state.root
    raise _Usage("there is no root to trust: name one with --root FILE that you have from somewhere else")


def _options(asked: argparse.Namespace, state: State) -> Options:
    if bool(asked.arch) != bool(asked.purpose) or (asked.extra and not asked.arch):
        raise _Usage("--arch ARCH, --for install or packages, and --with belong together")
    if asked.arch and not _ARCH.fullmatch(asked.arch):
        raise _Usage("--arch is amd64, arm64 or riscv64")
    extra = [p for e in asked.extra for p in (images_of(asked.arch) if e == "images" else (e,))]
    try:
        for version in filter(None, (asked.expect_version, asked.installed_version)):
            read_version(version, version)
        text = asked.as_of if not asked.as_of or "T" in asked.as_of else f"{asked.as_of}T00:00:00Z"
        as_of = read_time(text, "--as-of") if text else None
    except Refused as refused:
        raise _Usage(str(refused)) from refused
    return Options(
        scope=Scope(asked.arch or "", tuple(extra), packages=asked.purpose == "packages"),
        state=state,
        now=int(time.time()),
        as_of=as_of,
        allow_stale=asked.allow_stale,
        allow_bases=frozenset(asked.allow_base),
        allow_downgrade=asked.allow_downgrade,
        allow_yanked=asked.allow_yanked,
        expect_version=asked.expect_version or "",
        installed_version=asked.installed_version or "",
    )


def _remember(report: Report, *, explicit: bool) -> None:
    """Write what the host remembers. What was not asked for by name may fail, and is said."""
    if report.state is None:
        return
    try:
        write_state(report.state)
    except Refused as refused:
        if explicit:
            report.refused.append(refused)
        else:
            report.notes.append(f"nothing is remembered of this: {refused}")


def print_report(report: Report, *, as_json: bool) -> None:
    """Print everything that was found: reasons on standard error, the rest on standard output."""
    if as_json:
        print(render_json(report), end="")
        return
    if report.rows:
        print(plain_table(render_table(report)), end="")
    for kept in report.kept:
        print(plain(f"repository {kept.path}: revision {kept.revision}, {kept.packages} packages"))
    for note in report.notes:
        print(plain(f"note: {note}"))
    if report.development:
        print("DEVELOPMENT: keys and policy of this trust root are for development; nobody should rely on it")
    print(render_reasons(report), end="", file=sys.stderr)
    sys.stdout.flush()
    if report.exit_code == ACCEPTED:
        print(f"accepted: {plain(report.title)} (policy {plain(report.policy)})")
    else:
        named = report.folder or "this folder"
        print(plain(f"NOT ACCEPTED: {named}: {len(report.reasons) + len(report.stale)} reasons"), file=sys.stderr)


def plain_table(text: str) -> str:
    """A table whose lines can be printed."""
    return "".join(plain(line) + "\n" for line in text.splitlines())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rfo-verify", description="Check a release of RFO, without network.")
    add = parser.add_argument
    add("--release", metavar="DIR", help="the folder that a release lies in")
    add("--repo", metavar="DIR", help="in place of it a repository of packages, or the folder rpm of a release")
    add("--repo-name", metavar="NAME", default=REPO_NAME, help="what this host calls it (default %(default)s)")
    add("--root", metavar="FILE", help="the root of trust; else the one in this file or of the host")
    add("--state", metavar="DIR", help=f"what this host remembers (default {STATE})")
    add("--arch", metavar="ARCH", help="amd64, arm64 or riscv64: with --for install")
    add("--for", dest="purpose", choices=["install", "packages"], help="look only at what installing takes")
    add("--with", dest="extra", metavar="WHAT", action="append", default=[], help="images, or a pattern of paths")
    add("--json", action="store_true", help="print everything as JSON")
    time_options = parser.add_mutually_exclusive_group()
    time_options.add_argument("--as-of", metavar="DATE", help="judge expiry at this time, not at the clock's")
    time_options.add_argument("--allow-stale", action="store_true", help="accept metadata that have expired")
    add("--allow-base", metavar="NAME", action="append", default=[], help="accept this base besides the policy's")
    add("--allow-downgrade", action="store_true", help="accept an older version than before")
    add("--allow-yanked", action="store_true", help="accept a release that was taken back")
    add("--expect-version", metavar="V", help="refuse any other version")
    add("--installed-version", metavar="V", help="what is installed: refuse an older version")
    add("--record-installed", metavar="V", help="remember that this version is installed now")
    add("--wanted", action="store_true", help="list missing files as PATH<TAB>MAXBYTES, until none is listed")
    add("--unpack", metavar="TARBALL", help="unpack into a new folder: with --to and --digest")
    add("--to", metavar="FOLDER")
    add("--digest", metavar="HEX", help="SHA-256 of the tarball")
    add("--compare", nargs=2, metavar=("V1", "V2"), help="print -1, 0 or 1")
    add("--self-test", action="store_true", help="check openssl and this program on known signatures")
    return parser
