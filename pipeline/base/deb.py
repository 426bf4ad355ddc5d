"""Debian-like bases: locked and fetched with the host's apt on private state, unpacked without dpkg.

I/O: `lock` and `fetch` run apt (network, and only there) and gpgv; `unpack` reads and writes files. Root is never
needed. The host contributes its mirror, its proxy settings and the distribution's keyring; whether metadata is
accepted is decided by the fingerprints in the base's definition.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import quote, unquote

from pipeline.base.archives import open_data
from pipeline.bases import Base
from pipeline.errors import HostError, NetworkError, SourceError, UsageError
from pipeline.extract import READ, extract_tar
from pipeline.lock import BaseLock, Package, Suite
from pipeline.model import Digest, RootedPath, platform
from pipeline.process import CommandFailed, find_program, run

from . import Deliver

APT = "apt"
"""The package of the host that brings apt-get and apt-helper."""
APT_HELPER = Path("/usr/lib/apt/apt-helper")
KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
)
CHUNK = 50
"""Packages per call of apt-helper: well below the limit of a command line, and a failure is told soon."""
TIMEOUT = 900
"""Seconds for one call of apt; a stalled connection ends earlier (Acquire::http::Timeout)."""
_URI = re.compile(r"'(?P<uri>[^' ]+)' (?P<file>[^ /]+)_[^ _/]+\.deb (?P<size>[0-9]+) SHA256:(?P<sha256>[0-9a-f]{64})")
_SIGNATURE = re.compile(r"NO_PUBKEY|BADSIG|EXPKEYSIG|REVKEYSIG|is not signed|GPG error|OpenPGP signature|not verified")

# Host configuration is left out as a whole (Dir::Etc::Parts), since it may add architectures, pins or hooks.
# Valid-Until is not enforced: mirrors of moving suites lag by weeks, and the lock records the date it was made from.
_CONFIGURATION = """\
APT::Architecture "{arch}"; APT::Architectures {{"{arch}";}};
APT::Install-Recommends "false"; APT::Install-Suggests "false"; APT::Sandbox::User "";
APT::Update::Error-Mode "any";
Acquire::Languages "none"; Acquire::Check-Valid-Until "false"; Acquire::ForceHash "SHA256"; Acquire::Retries "3";
Acquire::AllowInsecureRepositories "false"; Acquire::AllowWeakRepositories "false";
Acquire::http::Timeout "30"; Acquire::https::Timeout "30";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
Dir::Etc::Parts "{state}/empty"; Dir::Etc::Main "/dev/null";
Dir::Etc::SourceList "{state}/sources.list"; Dir::Etc::SourceParts "{state}/empty";
Dir::Etc::Preferences "/dev/null"; Dir::Etc::PreferencesParts "{state}/empty";
Dir::Etc::Trusted "/dev/null"; Dir::Etc::TrustedParts "{state}/trusted";
Dir::State "{state}/state"; Dir::State::Lists "{state}/lists"; Dir::State::status "{state}/status";
Dir::State::extended_states "{state}/extended_states"; Dir::Cache "{state}/cache"; Dir::Log "{state}/log";
"""


@dataclass(frozen=True)
class _Apt:
    """A private apt: one suite, one architecture."""

    state: Path
    origin: str
    """URI of the mirror, ending with a slash."""

    def run(self, *arguments: str) -> str:
        return run(arguments, env=self._environment(), cwd=self.state, timeout=TIMEOUT).stdout.decode(errors="replace")

    def _environment(self) -> Mapping[str, str]:
        kept = ("PATH", "HOME", "TMPDIR", "http_proxy", "https_proxy", "no_proxy")
        return {k: os.environ[k] for k in kept if k in os.environ} | {
            "APT_CONFIG": str(self.state / "apt.conf"),
            "LC_ALL": "C.UTF-8",
        }


def lock(base: Base, arches: Sequence[str], host: str, *, origin: str | None, work: Path) -> BaseLock:
    """Resolve every root; see `pipeline.base.Family.lock`."""
    find_program("apt-get", packages=APT)
    mirror = _find_mirror(base, origin)
    keyring = _find_keyring(base)
    work.mkdir(parents=True, exist_ok=True)
    wanted = {arch: list(base.targets) for arch in sorted(set(arches))}
    wanted[host] = wanted.get(host, []) + [r for r, recipe in base.recipes.items() if recipe.per == "host"]
    with ThreadPoolExecutor(len(wanted)) as pool:  # updates wait for the network
        jobs = {
            arch: pool.submit(_lock_arch, base, arch, roots, mirror=mirror, keyring=keyring, work=work)
            for arch, roots in wanted.items()
        }
    packages: list[Package] = []
    suites: list[Suite] = []
    missing: list[tuple[str, str]] = []
    for arch, job in sorted(jobs.items()):
        try:
            suite, found = job.result()
        except NetworkError as error:
            if arch == host:
                raise
            missing.append((arch, error.reason))
            continue
        suites.append(suite)
        packages += found
    return BaseLock(base.name, tuple(sorted(packages)), tuple(suites), tuple(missing))


def fetch(base: Base, packages: Iterable[Package], *, origin: str | None, work: Path, deliver: Deliver) -> None:
    """Download packages by path and digest; see `pipeline.base.Family.fetch`."""
    if not APT_HELPER.exists():
        raise HostError(f"the program {APT_HELPER} is needed and was not found", f"install it: {APT}")
    mirror = _find_mirror(base, origin)
    work.mkdir(parents=True, exist_ok=True)
    todo = list({p.digest: p for p in packages}.values())  # the same file may be in several roots
    gone: list[str] = []
    wrong: list[str] = []
    with _private_apt(work, "fetch", "amd64", mirror, None) as apt:
        for start in range(0, len(todo), CHUNK):
            chunk = todo[start : start + CHUNK]
            _download(apt, chunk)
            for package in chunk:
                problem = _take(apt, package, deliver)
                if problem and len(chunk) > 1:  # alone, for its own error message
                    _download(apt, [package])
                    problem = _take(apt, package, deliver)
                if problem:
                    (wrong if "mismatch" in problem.lower() else gone).append(f"{package.path} ({problem})")
    if gone or wrong:
        error = SourceError if wrong else NetworkError
        raise error(
            f"{len(gone) + len(wrong)} of {len(todo)} packages of the base {base.name} cannot be had:\n    "
            + "\n    ".join(sorted(gone + wrong)),
            f"mirrors drop superseded packages; renew the lock: inv lock --base {base.name} --update, "
            f"or name a mirror that still has them: --mirror {base.name}=URI",
        )


def unpack(package_file: Path, root: Path, what: str, drop: Iterable[str]) -> None:
    """Unpack one .deb below `root`; see `pipeline.base.Family.unpack`."""
    with package_file.open("rb") as file:
        stream = open_data(file, what)
        extract_tar(stream, root, what=what, drop=drop)
        while stream.read(READ):  # padding; only at its end a compressed stream tells that it is whole
            pass


def _lock_arch(
    base: Base, arch: str, roots: Sequence[str], *, mirror: str, keyring: Path, work: Path
) -> tuple[Suite, list[Package]]:
    """The first suite of `arch` in which every root resolves. Raises NetworkError with what was tried."""
    tried = []
    for suite in next((suites for name, suites in base.suites.items() if name == arch), ()):
        with _private_apt(work, suite, platform(arch).deb_arch, mirror, keyring) as apt:
            try:
                apt.run("apt-get", "update", "-q")
                signed = _check_signature(base, suite, apt, keyring)
                return Suite(arch, suite, *signed), [p for r in roots for p in _resolve(base, r, arch, apt)]
            except CommandFailed as error:
                problem = _problem(error.output)
                if _SIGNATURE.search(error.output):
                    raise SourceError(
                        f"base {base.name}: suite {suite} for {arch}: its signature was refused: {problem}",
                        f"the mirror is not {base.origin}'s, or the keyring {keyring} is outdated",
                    ) from error
                tried.append(f"suite {suite}: {problem}")
    reason = "; ".join(tried) or "the definition names no suite"
    raise NetworkError(
        f"base {base.name} cannot be had for {arch}: {reason}",
        f"try later or another mirror: --mirror {base.name}=URI",
    )


def _resolve(base: Base, role: str, arch: str, apt: _Apt) -> list[Package]:
    """What apt would install of a root's packages on an empty system."""
    recipe = base.recipes[role]
    printed = apt.run("apt-get", "install", "-y", "-q", "--no-install-recommends", "--print-uris", *recipe.packages)
    found = []
    for line in printed.splitlines():
        if not line.startswith("'"):
            continue
        match = _URI.fullmatch(line.rstrip())
        uri = unquote(match["uri"]) if match else ""
        if not match or not uri.startswith(unquote(apt.origin)):
            raise SourceError(f"base {base.name}: apt names a file in an unexpected way: {line[:200]}")
        path = RootedPath.parse(uri[len(unquote(apt.origin)) :]).relative
        name, _, version = unquote(match["file"]).partition("_")
        if recipe.dependencies or name in recipe.packages:
            found.append(Package(role, arch, name, version, path, int(match["size"]), Digest(match["sha256"])))
    if not found:
        raise SourceError(f"base {base.name}: apt resolved {role} for {arch} to nothing")
    return found


def _check_signature(base: Base, suite: str, apt: _Apt, keyring: Path) -> tuple[str, Digest]:
    """Check that a key named by the base signed what apt has accepted; date and digest of the signed metadata.

    apt trusts every key of the keyring; the base names fewer. The name of the suite is checked as well, since one
    key signs several. Raises SourceError.
    """
    where = f"base {base.name}: suite {suite} of {apt.origin}"
    files = sorted((apt.state / "lists").glob("*_InRelease"))
    if len(files) != 1:
        raise SourceError(f"{where}: expected one InRelease file, found {len(files)}")
    text = apt.state / "release.txt"
    gpgv = find_program("gpgv", packages="gpgv")
    status = run(
        [gpgv, "--status-fd", "1", "--keyring", str(keyring), "--output", str(text), str(files[0])],
        env={"LC_ALL": "C.UTF-8", "PATH": os.environ.get("PATH", os.defpath)},
        check=False,  # it fails if one of several signing keys is not in the keyring
    ).stdout.decode(errors="replace")
    signers: set[str] = set()
    good = False
    for fields in (line.split() for line in status.splitlines() if line.startswith("[GNUPG:] ")):
        if fields[1] in ("NEWSIG", "GOODSIG"):
            good = fields[1] == "GOODSIG"  # a signature by an expired or revoked key is valid but not good
        elif fields[1] == "VALIDSIG" and good:
            signers |= {fields[2], fields[-1]}  # the signing key and its primary key
    if not signers & set(base.keys):
        raise SourceError(
            f"{where}: not signed by a key that the base names; signed by {', '.join(sorted(signers)) or 'none known'}"
        )
    fields_of = dict(line.split(": ", 1) for line in text.read_text(errors="replace").splitlines() if ": " in line)
    if fields_of.get("Origin") != base.origin or suite not in (fields_of.get("Codename"), fields_of.get("Suite")):
        raise SourceError(
            f"{where}: expected {suite} of {base.origin}, "
            f"found {fields_of.get('Codename')} of {fields_of.get('Origin')}"
        )
    try:
        date = parsedate_to_datetime(fields_of.get("Date", ""))
    except ValueError as error:
        raise SourceError(f"{where}: its date is malformed") from error
    utc = date.astimezone(UTC) if date.tzinfo else date.replace(tzinfo=UTC)
    return utc.strftime("%Y-%m-%dT%H:%M:%SZ"), Digest.of_file(files[0])


def _find_mirror(base: Base, origin: str | None) -> str:
    """The URI of a mirror, ending with a slash: the user's, or the one that the host's apt is configured with."""
    if origin is None:
        remedy = f"name one: --mirror {base.name}=URI"
        try:
            listed = run(
                ["apt-get", "indextargets", "--format", "$(REPO_URI)|$(RELEASE)|$(ORIGIN)", "Created-By: Packages"]
            ).stdout.decode(errors="replace")
        except (CommandFailed, HostError) as error:
            raise HostError(f"the host's apt names no mirror of {base.origin}: {error.reason}", remedy) from error
        rows = [line.split("|") for line in listed.splitlines() if line.count("|") == 2]
        # Suites such as trixie-security may lie on another server, which has not the plain suites.
        plain = [(uri, name) for uri, release, name in rows if "-" not in release and uri.startswith(("http", "file"))]
        # The origin is known only of suites that the host has updated; what is fetched is checked in any case.
        found = [uri for uri, name in plain if name == base.origin] or [uri for uri, name in plain if not name]
        if not found:
            raise HostError(f"the host's apt is configured with no mirror of {base.origin}", remedy)
        origin = found[0]
    if not re.fullmatch(r"(https?://[^/]|file:/)[^\s'\"\[\]]*", origin):
        raise UsageError(f"{origin!r} is no URI of a mirror", "write it as https://HOST/PATH or file:///PATH")
    return re.sub("^file:/+", "file:/", origin).rstrip("/") + "/"  # as apt itself writes it


def _find_keyring(base: Base) -> Path:
    """The distribution's keyring on the host.

    The environment variable RFO_KEYRING_NAME (the base's name in capitals, with _ for - and .) names another one, for
    tests and for mirrors that sign themselves. It adds no trust: the definition's fingerprints decide.
    """
    variable = "RFO_KEYRING_" + re.sub(r"[^A-Z0-9]", "_", base.name.upper())
    if named := os.environ.get(variable):
        if not Path(named).is_file():
            raise HostError(f"{variable}: {named} is no file")
        return Path(named).absolute()
    for path in KEYRINGS:
        if path.is_file():
            return path
    raise HostError(
        f"the keyring of {base.origin} was not found ({', '.join(map(str, KEYRINGS))})",
        f"install the package debian-archive-keyring, or name a file: {variable}=FILE",
    )


@contextmanager
def _private_apt(work: Path, suite: str, arch: str, mirror: str, keyring: Path | None) -> Iterator[_Apt]:
    """An apt whose state is made for this use and removed after it, so that nothing old is ever served."""
    state = Path(tempfile.mkdtemp(dir=work, prefix=f"apt-{suite}-{arch}-")).absolute()
    try:
        if re.search(r"[\"\\]", str(state)):
            raise HostError(f"apt cannot work in the folder {state}: its name has quotes", "use another folder")
        for folder in ("empty", "trusted", "lists/partial", "cache/archives/partial", "state", "log", "files"):
            (state / folder).mkdir(parents=True)
        (state / "status").touch()
        if keyring:
            shutil.copyfile(keyring, state / "trusted" / "archive.gpg")
        (state / "sources.list").write_text(f"deb [arch={arch}] {mirror} {suite} main\n")
        (state / "apt.conf").write_text(_proxy_settings() + _CONFIGURATION.format(arch=arch, state=state))
        yield _Apt(state, mirror)
    finally:
        shutil.rmtree(state, ignore_errors=True)


def _proxy_settings() -> str:
    """How the host's apt reaches the network: proxies, their rules and certificates."""
    dump = run(["apt-config", "dump"], check=False).stdout.decode(errors="replace")
    return "".join(f"{line}\n" for line in dump.splitlines() if re.match(r'Acquire::(https?)::[^ ]+ ".*";$', line))


def _download(apt: _Apt, packages: Sequence[Package]) -> None:
    """Ask apt-helper for files; whether they came is seen by `_take`."""
    arguments = []
    for package in packages:
        path = RootedPath.parse(package.path).relative
        target = apt.state / "files" / package.digest.hex
        arguments += [apt.origin + quote(path, safe="/+~:=@,!"), str(target), f"SHA256:{package.digest.hex}"]
    # apt-helper knows no size; the limit stops a server that sends without end.
    blocks = (max(p.size for p in packages) + (1 << 20)) // 512
    try:
        apt.run("sh", "-c", 'ulimit -f "$0" && exec "$@"', str(blocks), str(APT_HELPER), "download-file", *arguments)
        problem = ""
    except CommandFailed as error:
        problem = _problem(error.output)
    (apt.state / "problem").write_text(problem)


def _take(apt: _Apt, package: Package, deliver: Deliver) -> str:
    """Check and deliver a downloaded file; what is wrong with it, or nothing."""
    file = apt.state / "files" / package.digest.hex
    if file.is_symlink():  # apt links to the files of a file: mirror
        real = file.resolve()
        file.unlink()
        shutil.copyfile(real, file)
    said = (apt.state / "problem").read_text()
    if not file.exists():
        return said or "not served"
    if file.stat().st_size != package.size or Digest.of_file(file) != package.digest:
        came = file.stat().st_size
        file.unlink()
        if came < package.size and said and "mismatch" not in said.lower():  # a transfer that broke
            return f"{said}; {came} of {package.size} bytes came"
        return f"hash or size mismatch: expected {package.digest}, {package.size} bytes"
    deliver(package, file)
    return ""


def _problem(output: str) -> str:
    """The first error that apt printed, on one line."""
    lines = [re.sub(r"^[EW]: ", "", " ".join(line.split())) for line in output.splitlines()]
    errors = [line for line, raw in zip(lines, output.splitlines(), strict=True) if raw.startswith("E:")]
    # Not always first: what is wrong with a file, as opposed to that something is.
    told = [line for line in lines if "mismatch" in line.lower() or "unexpected size" in line] or errors or lines[-1:]
    return told[0][:400] if told else "no message"
