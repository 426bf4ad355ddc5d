"""Repositories that were tampered with, and what the real dnf says of them; also what it does not notice."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from dnf import EPOCH, NEW, NODE, OLD, Host, index, key_file, made, new_signer, publish
from rpm_mirror import serve

from pipeline.attest.openpgp import DAY

PACKAGE = "rfo-server-*.rpm"
OTHER = new_signer("Somebody else")
Attack = Callable[[Path], None]
"""Changes a repository."""


def edit_index(folder: Path) -> None:
    path = folder / "repodata/repomd.xml"
    path.write_text(path.read_text().replace(f"<revision>{EPOCH}", f"<revision>{EPOCH + 1}"))


def remove_signature(folder: Path) -> None:
    (folder / "repodata/repomd.xml.asc").unlink()


def take_signature_of_another_index(folder: Path) -> None:
    shutil.copy(made().new / "repodata/repomd.xml.asc", folder / "repodata")


def sign_index_by_another_key(folder: Path) -> None:
    OTHER.sign_index(folder)


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def flip_metadata(folder: Path) -> None:
    flip(next(folder.glob("repodata/*-primary.xml.gz")), -5)


def flip_package(folder: Path) -> None:
    flip(next(folder.glob(PACKAGE)), -5)


def flip_package_and_describe_it(folder: Path) -> None:
    flip_package(folder)
    index(folder, made().signer)


def put_unsigned_package(folder: Path) -> None:
    signed = next(folder.glob(PACKAGE))
    unsigned = next(p for p in made().folder.glob(f"rpmbuild-*/RPMS/*/{signed.name}"))
    shutil.copy(unsigned, signed)
    index(folder, made().signer)


def sign_package_by_another_key(folder: Path) -> None:
    put_unsigned_package(folder)
    OTHER.sign(next(folder.glob(PACKAGE)))
    index(folder, made().signer)


def offer_older_package_as_newer(folder: Path) -> None:
    old, new = next(made().old.glob(PACKAGE)), next(made().new.glob(PACKAGE))
    for path in made().new.glob("*.rpm"):
        shutil.copy(path, folder)
    index(folder, made().signer)
    shutil.copy(old, folder / new.name)


NAME = f"rfo-server-{OLD}-1.oe2203sp4.x86_64"
REFUSED: list[tuple[Attack, list[str]]] = [
    (edit_index, ["repomd.xml GPG signature verification error: Bad GPG signature"]),
    (remove_signature, ["GPG verification is enabled, but GPG signature is not available", "repomd.xml.asc"]),
    (take_signature_of_another_index, ["repomd.xml GPG signature verification error: Bad GPG signature"]),
    (sign_index_by_another_key, ["repomd.xml GPG signature verification error: Bad GPG signature"]),
    (flip_metadata, ["Failed to download metadata for repo 'rfo'", "-primary.xml.gz"]),
    (flip_package, [f'Package "{NAME}" from local repository "rfo" has incorrect checksum']),
    (flip_package_and_describe_it, [f"Problem opening package {NAME}.rpm", "GPG check FAILED"]),
    (put_unsigned_package, [f"Package {NAME}.rpm is not signed", "GPG check FAILED"]),
    (sign_package_by_another_key, [f"Public key for {NAME}.rpm is not installed", "GPG check FAILED"]),
    (offer_older_package_as_newer, ['from local repository "rfo" has incorrect checksum']),
]


@pytest.mark.parametrize(("attack", "says"), REFUSED, ids=[attack.__name__ for attack, _ in REFUSED])
def test_refused(attack: Attack, says: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    shutil.copytree(made().old, folder)
    attack(folder)
    host = made().fresh(tmp_path / "host", folder)
    said = host.dnf("install", "rfo-server", status=1)
    for part in says:
        assert part in said
    assert host.installed() == {}
    assert host.files() == {}


def test_a_byte_changed_on_the_way(tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    shutil.copytree(made().old, folder)
    flip_package(folder)
    with serve(tmp_path) as server:
        host = made().fresh(tmp_path / "host", f"{server.url}repository/")
        said = host.dnf("install", "rfo-server", status=1)
    assert "Downloading successful, but checksum doesn't match" in said
    assert host.installed() == {}


def unsigned_files() -> list[Path]:
    found = {p.name: p for p in made().folder.glob(f"rpmbuild-*/RPMS/x86_64/*-{OLD}-*.rpm")}
    assert len(found) == len(NODE)
    return list(found.values())


def test_files_without_a_repository(tmp_path: Path) -> None:
    host = made().fresh(tmp_path, made().old)
    said = host.dnf("install", *unsigned_files(), status=1)
    assert f"Package {NAME}.rpm is not signed" in said
    host.repositories.pop("rfo")
    (host.folder / "repos/rfo.repo").unlink()
    said = host.dnf("install", *sorted(made().old.glob("*.rpm")), status=1)
    assert f"Public key for {NAME}.rpm is not installed" in said
    assert host.installed() == {}
    host.rpm("--import", made().keys)
    host.dnf("install", *sorted(made().old.glob("*.rpm")))
    assert set(host.installed()) == set(NODE)


# --- What dnf does not notice, or says in a way that misleads. docs/operator.md says it too; rfo-verify --repo notices.


def test_not_noticed_older_metadata(tmp_path: Path) -> None:
    """A mirror that serves what was signed before keeps hosts from getting what is newer."""
    folder = tmp_path / "repository"
    shutil.copytree(made().new, folder)
    host = made().fresh(tmp_path / "host", folder)
    assert f"{NEW}-1.oe2203sp4" in host.dnf("list", "--available", "rfo-server")
    shutil.rmtree(folder)
    shutil.copytree(made().old, folder)
    host.dnf("--refresh", "install", "rfo-server")
    assert set(host.installed().values()) == {OLD}


def expired(folder: Path) -> tuple[Path, Path]:
    """A repository, and the key that has signed it after it had expired."""
    signer = new_signer("RFO packages (expired)", created=EPOCH - 60 * DAY, days=30)
    repository = publish(folder / "repository", unsigned_files(), signer)
    return repository, key_file(folder / "RPM-GPG-KEY-rfo", signer)


def test_metadata_by_an_expired_key_look_damaged(tmp_path: Path) -> None:
    repository, keys = expired(tmp_path)
    said = made().fresh(tmp_path / "host", repository, keys).dnf("install", "rfo-server", status=1)
    assert "repomd.xml GPG signature verification error: Bad GPG signature" in said
    assert "expired (" not in said.replace("RFO packages (expired)", ""), "it does not say why"


def test_not_noticed_packages_by_an_expired_key(tmp_path: Path) -> None:
    repository, keys = expired(tmp_path)
    both = tmp_path / "both"
    both.write_bytes(made().keys.read_bytes() + keys.read_bytes())
    made().signer.sign_index(repository)
    host = made().fresh(tmp_path / "host", repository, both)
    host.dnf("install", "rfo-server")
    assert set(host.installed().values()) == {OLD}


def test_not_noticed_unsigned_files_where_that_is_not_asked_for(tmp_path: Path) -> None:
    """`gpgcheck` is about repositories; for files on the command line it is `localpkg_gpgcheck`, off by default."""
    host: Host = made().fresh(tmp_path, made().old)
    host.dnf("--setopt=localpkg_gpgcheck=0", "install", *unsigned_files())
    assert set(host.installed()) == set(NODE)
