"""Attacks on an installation, and accidents during one: what was there before stays, or is completed later."""

import fcntl
import io
import itertools
import os
import random
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from faults import own_mounts
from installer import NEW, OLD, Host, Mirror, Misdeed, Releases, installer_of, is_root, serve, two_releases, write_tool
from registry_server import Authority
from trusted import STATEMENT, Trusted, copied, promoted

from pipeline.model import Digest

SUMS, TARBALL = "sha256sum-amd64.txt", "rfo.linux-amd64.tar.gz"


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    return two_releases(tmp_path_factory.mktemp("releases"))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def installed(releases: Releases, tmp_path_factory: pytest.TempPathFactory) -> Host:
    """A host with OLD."""
    host = Host(tmp_path_factory.mktemp("installed"), releases.installer)
    write_tool(host.folder / "tools", "uname", "echo x86_64")
    host.tools = host.folder / "tools"
    host.install(releases.old.dist)
    return host


@pytest.fixture(scope="module")
def upgraded(installed: Host, releases: Releases, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is on that host after an upgrade."""
    host = installed.copy(tmp_path_factory.mktemp("upgraded"))
    host.tools = installed.tools
    host.install(releases.new.dist)
    return host.files()


@pytest.fixture
def host(installed: Host, tmp_path: Path) -> Host:
    """A copy of the host with OLD, on which programs can be replaced."""
    host = installed.copy(tmp_path / "host")
    host.tools = tmp_path / "tools"
    write_tool(host.tools, "uname", "echo x86_64")
    return host


def refused(host: Host, said: str, code: int = 10, **settings: str) -> str:
    """The installer ends with this code and says why; nothing on the host has changed. Returns what it said."""
    before = host.files()
    done = host.run(**settings)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "unpacking" not in done.stdout
    assert host.files() == before
    return done.stderr


# --- a mirror that misbehaves


@pytest.fixture
def mirror(releases: Releases) -> Iterator[Mirror]:
    with serve({OLD: releases.old.dist, NEW: releases.new.dist}) as mirror:
        yield mirror


def cut(handler: BaseHTTPRequestHandler, data: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data[: len(data) // 2])
    handler.close_connection = True


def cut_silently(handler: BaseHTTPRequestHandler, data: bytes) -> None:
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(data[: len(data) // 2])
    handler.close_connection = True


def endless(handler: BaseHTTPRequestHandler, data: bytes) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:  # until the client hangs up
        handler.wfile.write(data)


def huge(handler: BaseHTTPRequestHandler, data: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(1 << 40))
    handler.end_headers()
    endless(handler, data)


def failing(handler: BaseHTTPRequestHandler, data: bytes) -> None:
    del data
    handler.send_error(400)


CUT, TOO_LARGE = "cannot download", "larger than it may be"


@pytest.mark.parametrize(
    ("name", "misdeed", "code", "said"),
    [
        (TARBALL, cut, 1, CUT),
        (TARBALL, cut_silently, 10, f"refused: {TARBALL}: was changed"),
        (SUMS, cut_silently, 10, f"refused: {SUMS}: was changed"),
        ("release.sigstore.json", cut_silently, 10, f"refused: {STATEMENT}: "),
        (TARBALL, endless, 1, TOO_LARGE),
        ("timestamp.json", endless, 1, TOO_LARGE),
        (TARBALL, huge, 1, TOO_LARGE),
        (SUMS, failing, 1, CUT),
    ],
)
def test_a_mirror_that_misbehaves(
    host: Host, mirror: Mirror, name: str, misdeed: Misdeed, code: int, said: str
) -> None:
    mirror.misdeeds[name] = misdeed
    assert name in refused(host, said, code, MIRROR=mirror.url, VERSION=NEW)


def test_a_redirection_to_plain_http(releases: Releases, host: Host, authority: Authority) -> None:
    with (
        serve({NEW: releases.new.dist}) as plain,
        serve(plain.releases, authority.certificate, authority.key) as mirror,
    ):

        def away(handler: BaseHTTPRequestHandler, data: bytes) -> None:
            del data
            handler.send_response(302)
            handler.send_header("Location", plain.url + handler.path)
            handler.send_header("Content-Length", "0")
            handler.end_headers()

        mirror.misdeeds[TARBALL] = away
        refused(host, "cannot download", 1, MIRROR=mirror.url, VERSION=NEW, CA=str(authority.root))
        assert plain.asked == []


def test_a_redirection_without_end(host: Host, mirror: Mirror) -> None:
    def round_and_round(handler: BaseHTTPRequestHandler, data: bytes) -> None:
        del data
        handler.send_response(302)
        handler.send_header("Location", handler.path)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    mirror.misdeeds[SUMS] = round_and_round
    refused(host, "cannot download", 1, MIRROR=mirror.url, VERSION=NEW)


def test_a_mirror_by_another_authority(releases: Releases, host: Host, authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    with serve({NEW: releases.new.dist}, authority.certificate, authority.key) as mirror:
        for ca in ({}, {"CA": str(other.root)}):
            refused(host, "INSTALL_RFO_CA", 1, MIRROR=mirror.url, VERSION=NEW, **ca)
        assert mirror.asked == []
        done = host.run(MIRROR=mirror.url, VERSION=NEW, CURL_CA_BUNDLE=str(authority.root))
        assert done.returncode == 0, done.stderr


def test_no_network(host: Host, mirror: Mirror) -> None:
    alone = ["unshare", "--user", "--map-root-user", "--net"]
    before = host.files()
    done = host.run(before=alone, MIRROR="https://releases.example", VERSION=NEW)
    assert done.returncode == 1
    assert "is there a network?" in done.stderr
    assert host.files() == before
    assert mirror.asked == []


def test_a_release_that_there_is_not(host: Host, mirror: Mirror) -> None:
    said = refused(host, "is that a release of RFO?", 1, MIRROR=mirror.url, VERSION="v9.9.9+rfor1")
    assert "/v9.9.9%2Brfor1/" in said


def test_no_configuration_of_curl_is_read(host: Host, mirror: Mirror) -> None:
    (host.folder / "home/.curlrc").write_text("insecure\noutput = /dev/null\n")
    done = host.run(MIRROR=mirror.url, VERSION=NEW)
    assert done.returncode == 0, done.stderr


# --- a release that was tampered with


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x80  # never a letter for another
    path.write_bytes(data)


@pytest.mark.parametrize(
    "name", [TARBALL, SUMS, "release.json", "rfo-verify", STATEMENT, "trust/metadata/timestamp.json"]
)
def test_an_altered_file(releases: Releases, host: Host, tmp_path: Path, name: str) -> None:
    made = copied(releases.new, tmp_path / "made")
    flipped(made.dist / name)
    said = refused(host, "refused: ", ARTIFACT_PATH=str(made.dist))
    assert Path(name).name in said


def test_sums_that_go_with_another_tarball(releases: Releases, host: Host, tmp_path: Path) -> None:
    made = copied(releases.new, tmp_path / "made")
    before = made.digest(TARBALL).hex
    flipped(made.dist / TARBALL)
    sums = made.dist / SUMS
    sums.write_text(sums.read_text().replace(before, made.digest(TARBALL).hex))
    said = refused(host, f"refused: {TARBALL}: was changed", ARTIFACT_PATH=str(made.dist))
    assert f"refused: {SUMS}: was changed" in said
    assert f"expected sha256:{before}" in said


def test_the_tarball_of_another_architecture(releases: Releases, host: Host, tmp_path: Path) -> None:
    made = copied(releases.new, tmp_path / "made")
    shutil.copy(made.dist / TARBALL.replace("amd64", "arm64"), made.dist / TARBALL)
    refused(host, f"refused: {TARBALL}: was changed", ARTIFACT_PATH=str(made.dist))


def test_a_removed_attestation(releases: Releases, host: Host, tmp_path: Path) -> None:
    made = copied(releases.new, tmp_path / "made")
    for path in (made.dist / "provenance").glob("rebuilder-*/rebuild.sigstore.json"):
        path.unlink()
    refused(host, "rebuild.sigstore.json: is missing", ARTIFACT_PATH=str(made.dist))


def test_a_folder_that_changes_under_the_installer(releases: Releases, host: Host, tmp_path: Path) -> None:
    made = copied(releases.new, tmp_path / "made")
    assert host.tools
    evil = tmp_path / "evil"
    evil.write_bytes(b"evil")
    # When the verifier runs, what it judges has been copied, and is what is unpacked later.
    write_tool(
        host.tools, "python3", f'case $* in *--release*) cp {evil} "{made.dist}/release.json" ;; esac\nexec $REAL "$@"'
    )
    host.install(made.dist)
    assert host.checked() == NEW


class Escaping(Trusted):
    """A release whose tarball leads out of the folder that it is unpacked in; everybody has signed it."""

    def _tarball(self, arch: str) -> None:
        super()._tarball(arch)
        path = self.dist / f"rfo.linux-{arch}.tar.gz"
        with tarfile.open(path, "w:gz") as tar:
            info = tarfile.TarInfo("../../../evil")
            info.size = 4
            tar.addfile(info, io.BytesIO(b"evil"))


def test_a_tarball_that_leads_out(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trusted.Trusted", Escaping)
    made = promoted(tmp_path / "made", stand_in=False)
    fresh = Host(tmp_path / "fresh", installer_of(made), tools=host.tools)
    done = fresh.run(ARTIFACT_PATH=str(made.dist))
    assert done.returncode == 10
    assert "leads out of it" in done.stderr
    assert fresh.files() == {}
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.99, 0.9999])
def test_an_installer_that_was_cut_short_does_nothing(releases: Releases, host: Host, share: float) -> None:
    before = host.files()
    whole = host.installer
    host.installer = whole[: min(int(len(whole) * share), len(whole) - len(b'main "$@"\n') + 3)]
    host.run(ARTIFACT_PATH=str(releases.new.dist))
    assert host.files() == before


# --- the host's clock


def clock(host: Host, days: int) -> None:
    """Set the clock that rfo-verify sees."""
    assert host.tools
    shift = f"import runpy, sys, time; now = time.time; time.time = lambda: now() + {days * 86400}; "
    run = "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    script = f'case $3 in */rfo-verify) shift 2; exec $REAL -I -B -c "{shift}{run}" "$@" ;; esac\nexec $REAL "$@"'
    write_tool(host.tools, "python3", script)


def test_a_clock_that_was_set_back(releases: Releases, host: Host) -> None:
    clock(host, -30)
    refused(host, "the time at which this host accepted a release before", ARTIFACT_PATH=str(releases.new.dist))


def test_a_clock_that_was_set_forward(releases: Releases, host: Host) -> None:
    clock(host, 500)
    said = refused(host, "expired: ", 11, ARTIFACT_PATH=str(releases.new.dist))
    assert "INSTALL_RFO_ALLOW_STALE=1" in said
    host.install(releases.new.dist, ALLOW_STALE="1")
    assert host.checked() == NEW


# --- the host's verifier


def test_an_altered_verifier(releases: Releases, host: Host) -> None:
    verifier = host.state / "rfo-verify"
    before = Digest.of_file(verifier)
    verifier.write_text(verifier.read_text() + "# harmless\n")
    said = refused(host, f"refused: {verifier}: was altered", ARTIFACT_PATH=str(releases.new.dist))
    assert f"expected {before}, as recorded with it" in said
    assert f"found    {Digest.of_file(verifier)}" in said
    verifier.unlink()
    host.install(releases.new.dist)
    assert host.checked() == NEW


def test_a_verifier_and_its_record_altered_together(releases: Releases, host: Host) -> None:
    host.install(releases.new.dist)
    verifier = host.state / "rfo-verify"
    verifier.write_text(verifier.read_text() + "# harmless\n")
    (host.state / "rfo-verify.sha256").write_text(f"{Digest.of_file(verifier).hex}  rfo-verify\n")
    said = refused_late(host, f"refused: {verifier}: was altered", releases.new.dist)
    assert f"expected {Digest.of_file(releases.new.dist / 'rfo-verify')}, as {NEW} names it" in said


def refused_late(host: Host, said: str, folder: Path) -> str:
    before = host.files()
    done = host.run(ARTIFACT_PATH=str(folder))
    assert done.returncode == 10
    assert said in done.stderr
    assert host.files() == before
    return done.stderr


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_state_that_others_can_write(releases: Releases, host: Host, mode: int) -> None:
    host.state.chmod(mode)
    refused(host, "others can write to", 1, ARTIFACT_PATH=str(releases.new.dist))


@pytest.mark.parametrize("name", ["root.json", "timestamp.json", "state.json"])
def test_a_damaged_state(releases: Releases, host: Host, name: str) -> None:
    flipped(host.state / name)
    refused(host, "refused: ", ARTIFACT_PATH=str(releases.new.dist))


# --- the place to install to


@pytest.mark.parametrize("place", ["opt", "opt/rfo", "opt/rfo/bin", "opt/rfo/lib/systemd", "opt/rfo/share/rfo"])
def test_a_link_planted_on_the_way(releases: Releases, host: Host, tmp_path: Path, place: str) -> None:
    target = tmp_path / "elsewhere"
    (host.folder / place).rename(target)
    (host.folder / place).symlink_to(target)
    before = sorted(p for p in target.rglob("*"))
    done = host.run(ARTIFACT_PATH=str(releases.new.dist))
    assert done.returncode == 1
    assert f"{host.folder / place} is a link to {target}" in done.stderr
    assert sorted(p for p in target.rglob("*")) == before
    assert host.version() == OLD


def test_links_in_the_place_of_files_are_replaced(releases: Releases, host: Host, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (host.prefix / "bin/rfo").unlink()
    (host.prefix / "bin/rfo").symlink_to(precious)
    host.install(releases.new.dist)
    assert precious.read_text() == "precious"
    assert host.checked() == NEW


def test_a_directory_in_the_place_of_a_file(releases: Releases, host: Host) -> None:
    (host.prefix / "bin/rfo").unlink()
    (host.prefix / "bin/rfo").mkdir()
    done = host.run(ARTIFACT_PATH=str(releases.new.dist))
    assert done.returncode == 1
    assert "is a directory; remove it" in done.stderr
    assert not (host.prefix / ".rfo-install").exists()


def test_a_prefix_that_is_read_only(releases: Releases, host: Host, mirror: Mirror) -> None:
    before = host.files()
    mounts = own_mounts(f"mount --bind {host.prefix} {host.prefix}", f"mount -o remount,bind,ro {host.prefix}")
    done = host.run(before=mounts, MIRROR=mirror.url, VERSION=NEW)
    assert done.returncode == 1
    assert f"cannot write to {host.prefix}" in done.stderr
    assert mirror.asked == [], "said before anything is downloaded"
    assert host.files() == before


@pytest.mark.skipif(not is_root(), reason="needs another user")
def test_a_user_who_may_not_write_there(releases: Releases, mirror: Mirror) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        host = Host(folder, releases.installer)
        write_tool(folder / "tools", "uname", "echo x86_64")
        host.tools = folder / "tools"
        for path in (folder / "tmp", folder / "home"):
            os.chown(path, 65534, 65534)
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        done = host.run(before=nobody, MIRROR=mirror.url, VERSION=NEW)
        assert done.returncode == 1
        assert "run this as root, or choose another" in done.stderr
        assert mirror.asked == []
        mine = f"{folder}/home/rfo"
        own = {"TAR_PREFIX": mine, "STATE": f"{folder}/home/state", "AGENT_IMAGES_DIR": ""}
        done = host.run(before=nobody, MIRROR=mirror.url, VERSION=NEW, **own)
        assert done.returncode == 0, done.stderr
        assert (Path(mine) / "bin/rfo").exists()


def test_two_at_once(releases: Releases, host: Host) -> None:
    stage = host.prefix / ".rfo-install"
    stage.mkdir(mode=0o700)
    with (stage / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = host.run(ARTIFACT_PATH=str(releases.new.dist))
        assert done.returncode == 1
        assert "another installation is running" in done.stderr
        assert host.version() == OLD
    host.install(releases.new.dist)
    assert host.checked() == NEW


# --- interrupted

CHANGING = ("mkdir", "mv", "ln", "rm", "cp", "cat", "sync", "chmod", "python3")
"""Programs by which the installer changes something."""


def interrupting(host: Host, how: str) -> Path:
    """Replace those programs by such that count, and do harm instead of the call whose number stands in `at`."""
    assert host.tools
    count, at = host.folder / "count", host.folder / "at"
    harm = {"kill": "kill -KILL 0", "fail": "exit 1"}[how]
    for name in CHANGING:
        log = f'echo "{name} $*" >>{count}.log'
        step = f"read -r n <{count}; n=$((n + 1)); echo $n >{count}; read -r at <{at}; {log}; [ $n != $at ] || {harm}"
        write_tool(host.tools, name, f'{step}\nexec $REAL "$@"')
    count.write_text("0\n")
    at.write_text("0\n")
    return count


def steps_of(installed: Host, releases: Releases, folder: Path) -> range:
    """The numbers of those calls in an upgrade that come after all is judged: before, nothing has been changed."""
    host = installed.copy(folder / "counted")
    host.tools = folder / "counted-tools"
    write_tool(host.tools, "uname", "echo x86_64")
    count = interrupting(host, "fail")
    host.install(releases.new.dist)
    calls = Path(f"{count}.log").read_text().splitlines()
    return range(next(n for n, call in enumerate(calls, 1) if "--unpack" in call), len(calls) + 1)


def interrupt(installed: Host, releases: Releases, upgraded: dict[str, str], folder: Path, how: str, at: int) -> str:
    """Interrupt an upgrade, look at what is there, and run it again. Returns which version was there."""
    host = installed.copy(folder / f"host-{how}-{at}")
    host.tools = folder / f"tools-{how}-{at}"
    write_tool(host.tools, "uname", "echo x86_64")
    before = host.files()
    interrupting(host, how)
    (host.folder / "at").write_text(f"{at}\n")
    done = host.run(ARTIFACT_PATH=str(releases.new.dist))
    version = host.version()
    assert version in (OLD, NEW), f"{how} at {at}"
    if how == "fail":
        left = {name: text for name, text in host.files().items() if not name.startswith("tmp/")}
        whole = [without_record(files) for files in (before, upgraded)]
        committed = "completed when this runs again" in done.stderr
        assert committed or without_record(left) in whole, f"{how} at {at}: {done.stderr}"
        assert done.returncode == 0 or "ERROR" in done.stderr or "went wrong" in done.stderr, f"{how} at {at}"
    (host.folder / "at").write_text("0\n")
    shutil.rmtree(host.folder / "tmp")
    (host.folder / "tmp").mkdir()
    host.install(releases.new.dist)
    assert host.files() == upgraded, f"{how} at {at}: {done.stderr}"
    assert not (host.prefix / ".rfo-install").exists()
    shutil.rmtree(host.folder)
    return version


def without_record(files: dict[str, str]) -> dict[str, str]:
    """The record of the verifier's digest may name the next one as well, which is signed like this one."""
    return {name: text for name, text in files.items() if not name.endswith("rfo-verify.sha256")}


@pytest.mark.parametrize("how", ["kill", "fail"])
def test_an_upgrade_that_is_interrupted(
    installed: Host, releases: Releases, upgraded: dict[str, str], tmp_path: Path, how: str
) -> None:
    steps = steps_of(installed, releases, tmp_path)
    seed = int(os.environ.get("RFO_TEST_SEED", random.randrange(1 << 30)))  # noqa: S311
    print(f"RFO_TEST_SEED={seed}")
    for at in random.Random(seed).sample(steps, 1):  # noqa: S311
        interrupt(installed, releases, upgraded, tmp_path, how, at)


@pytest.mark.full
@pytest.mark.parametrize("how", ["kill", "fail"])
def test_an_upgrade_that_is_interrupted_anywhere(
    installed: Host, releases: Releases, upgraded: dict[str, str], tmp_path: Path, how: str
) -> None:
    steps = steps_of(installed, releases, tmp_path)
    found = [interrupt(installed, releases, upgraded, tmp_path, how, at) for at in steps]
    assert set(found) == {OLD, NEW}
    if how == "kill":
        assert len(list(itertools.groupby(found))) == 2, "the old version until one moment, the new one from there on"


# --- a full disk

FULL = """
set -eu
prefix=$1 state=$2 free=$3 full=$4
shift 4
cp -a "$prefix" "$prefix.old"
cp -a "$state" "$state.old"
mount -t tmpfs -o size=2m,mode=755 none "$prefix"
mount -t tmpfs -o size=2m,mode=755 none "$state"
cp -a "$prefix.old/." "$prefix"
cp -a "$state.old/." "$state"
dd if=/dev/zero of="$full/filler" bs=1k 2>/dev/null || :
truncate -s "-${free}k" "$full/filler"
cat >"$prefix.script"
if sh "$prefix.script" >/dev/null; then echo fits; else
  rm -f "$full/filler"
  diff -r "$prefix.old" "$prefix"
  diff -r -x rfo-verify.sha256 "$state.old" "$state"
  sh "$prefix.script" >/dev/null
fi
rm -f "$full/filler"
"$prefix/bin/rfo"
ls -A "$prefix" "$state"
"""


@pytest.mark.parametrize("free", [0, 48])
@pytest.mark.parametrize("full", ["prefix", "state"])
def test_a_full_disk(releases: Releases, host: Host, full: str, free: int) -> None:
    script = host.folder / "full.sh"
    script.write_text(FULL)
    folder = host.prefix if full == "prefix" else host.state
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", script, host.prefix, host.state, str(free), folder],
        input=host.installer, env=host.environment({"ARTIFACT_PATH": str(releases.new.dist)}),
        capture_output=True, check=False, timeout=900,
    )  # fmt: skip
    said = done.stdout.decode() + done.stderr.decode()
    assert done.returncode == 0, said
    assert f"rfo version {NEW}" in said
    assert ".rfo-install" not in done.stdout.decode()
    if free == 0:
        assert "[ERROR]" in said
