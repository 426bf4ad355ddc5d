"""Packages and repositories that rpmbuild and createrepo_c make of the specs, in the sandbox on the base's root."""

import gzip
import hashlib
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import solv
import yaml
from engine import ARCHES, BASE, HOST, REPO, inputs
from rpm_mirror import run
from rpm_packages import (
    BUNDLE,
    KEY_FILE,
    actions,
    built,
    built_otherwise,
    files,
    inputs_of,
    packages,
    release,
    tarball,
)

from pipeline.base.rpmfile import unpack_rpm
from pipeline.bases import Base
from pipeline.definitions import Release
from pipeline.errors import DefinitionError
from pipeline.model import PLATFORMS, Digest
from pipeline.proof.variations import circumstances, variations
from pipeline.rpm.packages import package_actions
from pipeline.rpm.spec import render_spec
from pipeline.store import Output, Store

SPECS = sorted((REPO / "rpm" / "specs").glob("*.spec"))
EVR = "1.25.4+rfor1-1.deb13"


def query(package: Path, form: str) -> str:
    return run("rpm", "-qp", "--nosignature", "--qf", form, package)


def lines(package: Path, form: str) -> list[str]:
    return query(package, f"[{form}\n]").splitlines()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The host's packages, unpacked over each other."""
    folder = tmp_path_factory.mktemp("installed")
    for name, path in packages(HOST).items():
        unpack_rpm(path, folder, name, ())
    return folder


def test_other_circumstances_make_the_same_bytes(tmp_path: Path) -> None:
    usual = built()
    roots = inputs().roots
    clock = next(roots.path(roots.find("engine", HOST)).rglob("libfaketime.so.1"))
    setting = replace(circumstances(variations()).setting, clock_library=clock)
    other = built_otherwise(Store(tmp_path), setting)
    assert not other.failures, [f.error.render() for f in other.failures]
    assert other.outputs == usual.outputs
    assert sum(name.startswith(("rpm/", "repository/")) for name in usual.outputs) == 12


def test_there_are_the_packages_that_the_definition_names() -> None:
    expected = {f"{name}-{EVR}.{a}.rpm" for name in ("rfo-common", "rfo-server", "rfo-agent", "rfo-images")
                for a in ("x86_64", "aarch64", "riscv64")}  # fmt: skip
    source = {f"rfo-{EVR}.src.rpm", f"rfo-images-{EVR}.nosrc.rpm", f"rfo-release-{EVR}.src.rpm"}
    made = files(built())
    assert set(made) == expected | source | {f"rfo-release-{EVR}.noarch.rpm"}
    for name, path in made.items():
        told = query(path, "%{NAME}-%{VERSION}-%{RELEASE}")
        assert name.startswith(f"{told}."), "a file is called as the package that is in it"
        assert query(path, "%{BUILDTIME} %{BUILDHOST}") == f"{release().epoch} rfo"
        assert all(int(t) <= release().epoch for t in lines(path, "%{FILEMTIMES}"))
        assert ".oe" not in query(path, "%{RELEASE}%{SOURCERPM}"), "a stand-in is not openEuler"


@pytest.mark.parametrize("arch", ARCHES)
def test_the_program_is_the_tarballs(arch: str, tmp_path: Path) -> None:
    (tmp_path / "tarball").write_bytes(tarball(arch))
    shutil.unpack_archive(tmp_path / "tarball", tmp_path / "tar", "gztar", filter="tar")
    (tmp_path / "rpm").mkdir()
    for name, path in packages(arch).items():
        if name.startswith("rfo-common"):
            unpack_rpm(path, tmp_path / "rpm", name, ())
    for program in ("rfo", "rfo-killall.sh"):
        assert (tmp_path / f"rpm/usr/bin/{program}").read_bytes() == (tmp_path / f"tar/bin/{program}").read_bytes()


def test_every_path_is_owned_once() -> None:
    owners = Counter(path for package in packages(HOST).values() for path in lines(package, "%{FILENAMES}"))
    assert {path for path, count in owners.items() if count > 1} == set()
    parents = {str(parent) for path in owners for parent in Path(path).parents}
    mine = {p for p in parents if re.search(r"rancher|rfo", p)}
    assert mine <= set(owners), "no directory of ours is left behind without an owner"


def test_what_administrators_edit_is_theirs() -> None:
    flags = {p: f for package in packages(HOST).values() for p, f in
             (line.split("\t") for line in lines(package, "%{FILENAMES}\t%{FILEFLAGS:fflags}"))}  # fmt: skip
    kept = {path for path, flag in flags.items() if flag == "cn"}
    assert kept == {
        "/etc/rancher/rfo/config.yaml", "/etc/sysconfig/rfo-server", "/etc/sysconfig/rfo-agent",
        "/etc/yum.repos.d/rfo.repo", "/etc/dnf/vars/rfo_mirror",
    }  # fmt: skip
    assert {p.rpartition("/")[2] for p, flag in flags.items() if flag == "l"} == {
        "LICENSE.txt", "THIRD-PARTY-NOTICES.txt"
    }  # fmt: skip


def test_packages_of_one_release_need_each_other() -> None:
    needs = {name.removesuffix(f"-{EVR}.{PLATFORMS[HOST].rpm_arch}.rpm"):
             lines(path, "%{REQUIRES} %{REQUIREFLAGS:depflags} %{REQUIREVERSION}")
             for name, path in packages(HOST).items()}  # fmt: skip
    for name in ("rfo-server", "rfo-agent", "rfo-images"):
        assert f"rfo-common = {EVR}" in needs[name]
    assert any(line.startswith("systemd ") for line in needs["rfo-server"])
    assert any(line.startswith("util-linux ") for line in needs["rfo-common"])


def unsolvable(arch: str, base: Iterable[str], tmp_path: Path) -> list[str]:
    """What keeps the packages of an architecture from being installed on a system of `base`, by libsolv."""
    pool = solv.Pool()
    pool.setdisttype(solv.Pool.DISTTYPE_RPM)
    pool.setarch(PLATFORMS[arch].rpm_arch)
    ours, system = pool.add_repo("rfo"), pool.add_repo("base")
    primary = tmp_path / f"{arch}.xml"
    primary.write_bytes(gzip.decompress(files(built(), f"repository/{arch}")["primary.xml.gz"].read_bytes()))
    assert ours.add_rpmmd(solv.xfopen(str(primary)), None, 0)
    for name in base:
        package = system.add_solvable()
        package.name, package.evr, package.arch = name, "1-1", "noarch"
        package.add_deparray(solv.SOLVABLE_PROVIDES, pool.rel2id(package.nameid, package.evrid, solv.REL_EQ))
    pool.createwhatprovides()
    jobs = [pool.Job(solv.Job.SOLVER_INSTALL | solv.Job.SOLVER_SOLVABLE, s.id) for s in ours.solvables]
    assert len(jobs) == 5
    solver = pool.Solver()  # which must outlive what it says
    rules = [rule for problem in solver.solve(jobs) for rule in problem.findallproblemrules()]
    return [info.problemstr() for rule in rules for info in rule.allinfos()]


@pytest.mark.parametrize("arch", ARCHES)
def test_nothing_is_needed_but_the_base(arch: str, tmp_path: Path) -> None:
    """The names are those of openEuler's packages."""
    base = {"/bin/sh", "coreutils", "findutils", "gawk", "grep", "kmod", "sed", "systemd", "util-linux"}
    assert unsolvable(arch, base, tmp_path) == []
    for name in base:
        assert any(f"nothing provides {name} needed by" in p for p in unsolvable(arch, base - {name}, tmp_path)), name


def test_units_start_the_packaged_program(installed: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(installed, root)
    units = root / "usr/lib/systemd/system"
    for target in ("sysinit", "basic", "shutdown", "network-online"):
        (units / f"{target}.target").write_text("[Unit]\n")
    for program in ("usr/bin/sh", "usr/sbin/modprobe"):
        (root / program).parent.mkdir(parents=True, exist_ok=True)
        (root / program).write_text("#!/bin/sh\n")
        (root / program).chmod(0o755)
    for name in ("bin", "sbin"):
        (root / name).symlink_to(f"usr/{name}")
    for service in ("server", "agent"):
        text = (units / f"rfo-{service}.service").read_text()
        named = re.findall(r"^EnvironmentFile=-(.+)$", text, re.MULTILINE)
        assert (root / named[0].lstrip("/")).is_file() and named[-1] == f"/etc/sysconfig/rfo-{service}"
        assert run("systemd-analyze", "verify", "--man=no", f"--root={root}", f"rfo-{service}.service") == ""
    assert "/usr/local" not in "".join(p.read_text() for p in units.glob("rfo-*.service"))


def test_the_bundle_is_not_compressed_again(installed: Path) -> None:
    path = next(p for name, p in packages(HOST).items() if name.startswith("rfo-images"))
    assert query(path, "%{PAYLOADCOMPRESSOR} %{PAYLOADFLAGS}") == "gzip 0"
    found = list((installed / "var/lib/rancher/rfo/agent/images").iterdir())
    assert [f.name for f in found] == [f"rfo-images.linux-{HOST}.tar.zst"]
    assert found[0].read_bytes() == BUNDLE + HOST.encode()


def test_a_repository_file_knows_no_place_that_nobody_named(installed: Path, tmp_path: Path) -> None:
    text = (installed / "etc/yum.repos.d/rfo.repo").read_text()
    assert f"baseurl=$rfo_mirror/rpm/{BASE}/$basearch/\n" in text
    assert "enabled=0\n" in text and "gpgcheck=1\n" in text and "repo_gpgcheck=1\n" in text
    assert (installed / "etc/dnf/vars/rfo_mirror").read_text() == "\n"
    assert (installed / "etc/pki/rpm-gpg/RPM-GPG-KEY-rfo").read_bytes() == KEY_FILE
    mirror = "https://example.org/rfo"
    made = files(built(mirror, f"rpm/rfo-release/{BASE}"), f"rpm/rfo-release/{BASE}")
    for name, path in made.items():
        unpack_rpm(path, tmp_path, name, ())
    assert (tmp_path / "etc/dnf/vars/rfo_mirror").read_text() == f"{mirror}\n"
    assert "enabled=1\n" in (tmp_path / "etc/yum.repos.d/rfo.repo").read_text()


def test_rpmlint_finds_nothing_that_has_no_reason(tmp_path: Path) -> None:
    config = REPO / "rpm" / "rpmlint.toml"
    sets: list[list[Path]] = [SPECS, []]
    for name, path in files(built()).items():
        (tmp_path / name).symlink_to(path)
        if name.endswith("src.rpm"):
            sets.append([tmp_path / name])  # it takes the specs of several for those of one
        elif name.endswith(("noarch.rpm", f"{PLATFORMS[HOST].rpm_arch}.rpm")):
            sets[1].append(tmp_path / name)
    for found in sets:
        said = run("rpmlint", "-c", config, *found)
        assert "; 0 errors, 0 warnings" in said, said


def test_metadata_name_what_there_is() -> None:
    result = built()
    for name, kind in ((HOST, packages(HOST)), ("source", files(result, "rpm/source/"))):
        made = {file: path.read_bytes() for file, path in files(result, f"repository/{name}").items()}
        index = made["repomd.xml"].decode()
        assert f"<revision>{release().epoch}</revision>" in index
        for file in ("primary.xml.gz", "filelists.xml.gz", "other.xml.gz"):
            digest = hashlib.sha256(made[file]).hexdigest()
            assert f'<location href="repodata/{digest}-{file}"/>' in index
            assert actions().actions[f"repository/{name}"].publish[file].endswith(f"/repodata/{{hex}}-{file}")
        primary = gzip.decompress(made["primary.xml.gz"]).decode()
        listed = dict(zip(re.findall(r'<location href="(.+?)"', primary),
                          re.findall(r'pkgid="YES">(.+?)<', primary), strict=True))  # fmt: skip
        assert listed == {file: Digest.of_file(path).hex for file, path in kind.items()}
        assert set(re.findall(r'<time file="(\d+)"', primary)) == {str(release().epoch)}


def test_packages_do_not_depend_on_what_else_is_made() -> None:
    alone = {a.name: a for a in package_actions(release(), inputs_of((HOST,)), Digest("0" * 64))}
    together = {a.name: a for a in package_actions(release(), inputs_of(), Digest("0" * 64))}
    one = Output(Digest("1" * 64), 1)
    before = {
        f"tarball/{HOST}": {f"rfo.linux-{HOST}.tar.gz": one},
        f"bundle/all/{HOST}": {f"rfo-images.linux-{HOST}.tar.zst": one},
    }
    for name in (f"rpm/rfo/{HOST}", f"rpm/rfo-images/{HOST}", f"rpm/rfo-release/{BASE}"):
        assert alone[name].key(before) == together[name].key(before)


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What a packager gets who runs rpmbuild on the committed specs with a release's files."""
    top = tmp_path_factory.mktemp("by-hand")
    (top / "SOURCES").mkdir()
    for arch in ARCHES:
        (top / "SOURCES" / f"rfo.linux-{arch}.tar.gz").write_bytes(tarball(arch))
    options = [word for k, v in {"_topdir": top, "dist": ".deb13"}.items() for word in ("--define", f"{k} {v}")]
    run("rpmbuild", "-bb", "--nodeps", *options, "--target", "riscv64-linux", REPO / "rpm/specs/rfo.spec")
    yield top / "RPMS"


def test_specs_are_good_by_themselves(by_hand: Path) -> None:
    made = {path.name: path for path in by_hand.glob("*/*.rpm")}
    ours = {name: path for name, path in packages("riscv64").items() if name in made}
    assert len(made) == len(ours) == 3
    form = "%{FILENAMES} %{FILEDIGESTS} %{FILEMODES} %{FILEFLAGS} %{FILEUSERNAME}"
    for name, path in made.items():
        without = [re.sub(r"^(/usr/share/licenses/rfo-common)\S*?(?=[/ ])", r"\1", x) for x in lines(path, form)]
        mine = [re.sub(r"^(/usr/share/licenses/rfo-common)\S*?(?=[/ ])", r"\1", x) for x in lines(ours[name], form)]
        assert without == mine


def test_the_distributions_own_scriptlets_are_used_where_there_are_any() -> None:
    names = ("post", "preun", "postun")
    own = [word for name in names for word in ("--define", f"systemd_{name}() {name}-of-systemd %{{?*}}")]
    spec = run("rpmspec", "-P", "--target", "x86_64-linux", *own, REPO / "rpm/specs/rfo.spec")
    for service in ("server", "agent"):
        for name in names:
            assert re.search(rf"^%{name} +{service}\n{name}-of-systemd rfo-{service}\.service$", spec, re.MULTILINE)
    assert "systemctl" not in spec
    assert "systemctl" in run("rpmspec", "-P", "--target", "x86_64-linux", REPO / "rpm/specs/rfo.spec")


# --- rendering


def text(name: str) -> str:
    return (REPO / "rpm" / "specs" / f"{name}.spec").read_text()


def test_a_rendered_spec_is_the_committed_one_with_the_releases_facts() -> None:
    for spec in SPECS:
        rendered = render_spec(spec.read_text(), spec.name, release(), ARCHES)
        body, _, log = rendered.partition("\n%changelog\n")
        assert body == spec.read_text().partition("\n%changelog\n")[0], "nothing else is set"
        assert re.match(r"\* Fri Nov 18 2022 RFO - 1\.25\.4\+rfor1-1\n- Type:feature\n- ID:NA\n- SUG:NA\n- DESC:", log)
        assert "v1.25.4+rke2r1" in log and "etcd v3.5.4" in log


def test_other_architectures_leave_no_trace_and_numbers_stay() -> None:
    spec = render_spec(text("rfo-images"), "x", release(), ["amd64", "riscv64"])
    assert re.findall(r"^(?:No)?Source\S+\s+.+$", spec, re.MULTILINE) == [
        "Source0:        rfo-images.linux-amd64.tar.zst", "Source2:        rfo-images.linux-riscv64.tar.zst",
        "NoSource:       0", "NoSource:       2",
    ]  # fmt: skip
    assert "ExclusiveArch:  x86_64 riscv64\n" in spec


@pytest.mark.parametrize("change", [("Version:", "version:"), ("%changelog", "%log"), ("Name:", "Version: 1\nName:")])
def test_a_spec_without_a_place_for_the_version_is_an_error(change: tuple[str, str]) -> None:
    with pytest.raises(DefinitionError, match=r"^rfo\.spec: expected one Version: line and a %changelog"):
        render_spec(text("rfo").replace(*change), "rfo.spec", release(), ARCHES)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dist": ""}, "need each other"),
        ({"dist": ".oe2203"}, "must not pass for it"),
        ({"dist": "deb 13"}, "dist"),
    ],
)
def test_a_base_says_how_its_packages_are_marked(change: dict[str, str], reason: str) -> None:
    data = yaml.safe_load((REPO / f"images/openeuler/bases/{BASE}.yaml").read_text())
    assert Base.model_validate(data).dist == ".deb13"
    with pytest.raises(ValueError, match=reason):
        Base.model_validate(data | change)


@pytest.mark.parametrize(
    ("mirror", "good"),
    [
        ("https://example.org/a/b", True),
        ("", True),
        ("http://127.0.0.1:8000", True),
        ("ftp://example.org", False),
        ("https://example.org/%{lua:x}", False),
        ("https://example.org/\nenabled=1", False),
        ("https://example.org/$x", False),
        ("https://example.org/", False),
    ],
)
def test_a_mirror_is_a_plain_url(mirror: str, good: bool) -> None:
    data = yaml.safe_load((REPO / "releases/v1.25.4+rfor1/release.yaml").read_text()) | {"mirror": mirror}
    if good:
        assert Release.model_validate(data).mirror == mirror
    else:
        with pytest.raises(ValueError, match="mirror"):
            Release.model_validate(data)
