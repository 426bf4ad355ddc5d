"""A small signed release with its trust root, in the formats of the real one, made in about a second.

`promoted` makes all of it. Attack tests make it with variations, or change `dist` and run a later step again.
"""

import base64
import gzip
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from engine import ARCHES, REPO
from tuf.api.dsse import SimpleEnvelope
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Key,
    MetaFile,
    Role,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from pipeline.attest.keys import ROLES, Signing, load_signing, new_key, spki_of
from pipeline.attest.layout import compile_layout, make_layout, read_compiled, sign_layout
from pipeline.attest.links import make_links
from pipeline.attest.standalone import render_verifier
from pipeline.attest.statement import keyed_bundle, make_statement
from pipeline.image.assemble import MANIFEST, describe
from pipeline.image.index import INDEX, LAYOUT, NAME, REF_NAME
from pipeline.model import Digest, RootedPath
from pipeline.pack.tar import Entry, write_tar
from pipeline.pack.tarball import installed_files
from pipeline.publish.manifest import SCHEMA, render_manifest
from pipeline.publish.published import Manifest, read_published
from pipeline.trust.policy import compile_policy
from pipeline.verifier.bundle import pae, read_bundle
from pipeline.verifier.encoding import canonical
from pipeline.verifier.statement import IMAGE_SIGNATURE, PAYLOAD_TYPE, PROVENANCE, REBUILD, RELEASE, SPDX

VERSION = "v1.0.0+rfor1"
DATE = "2022-11-18T00:00:00Z"
EPOCH = 1668729600
IDS = "https://rfolabs.github.io/rfo/builders/development-"
BUILD = "https://rfolabs.github.io/rfo/build/v1"
FOLDERS = ("trust", "provenance")
POLICY_SOURCE = REPO / "provenance" / "policy" / "development.yaml"
LAYOUT_SOURCE = REPO / "provenance" / "layout.yaml"
STATEMENT = "provenance/release/release.sigstore.json"
Edit = Callable[[dict[str, Any]], Any]
"""Changes something before it is signed, in place."""


@dataclass
class Trusted:
    """A promoted release, and all that its signers have."""

    dist: Path
    repository: Path
    """Of TUF: `metadata` and `targets`."""
    keys: Path
    """Private and public keys by role."""
    version: str = VERSION
    stand_in: bool = True
    base: str = "debian-13"
    edits: Mapping[str, Edit] = field(default_factory=dict)
    """By what they change: `manifest`, `policy`, the path of a statement, `root`, `targets`, `release`, …"""
    signers: Mapping[str, str] = field(default_factory=dict)
    """By role or path of a statement: the role whose key signs in its place."""
    ids: Mapping[str, str] = field(default_factory=dict)
    """By role: the builder id that it states in place of its own."""
    days: int = 400
    """From now until metadata expire."""
    certified: Callable[[list[bytes]], list[bytes]] | None = None
    """Makes the release role's bundles in place of its key: by certificate."""
    trusted_root: bytes = b""
    """Of the Sigstore instance that certified, for the trust root."""
    packages: Path | None = None
    """What becomes the release's folder rpm/."""
    versions: dict[str, int] = field(default_factory=dict)
    """Of the metadata that was written last, by role."""

    @property
    def root(self) -> Path:
        """The root that a host trusts at first."""
        return self.repository / "metadata" / "1.root.json"

    @property
    def name(self) -> str:
        """The release's folder below dist/."""
        return f"{self.version}@{self.base}" if self.stand_in else self.version

    @property
    def manifest(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.dist / "release.json").read_bytes())
        return found

    def signing(self, role: str) -> Signing:
        return load_signing(self.signers.get(role, role), self.keys)

    def keyid8(self, role: str) -> str:
        return str(self.signing(role).key.keyid)[:8]

    def id_of(self, role: str) -> str:
        return self.ids.get(role, IDS + role)

    def edit(self, name: str, value: dict[str, Any]) -> dict[str, Any]:
        if name in self.edits:
            self.edits[name](value)
        return value

    def write(self, path: str, data: bytes) -> None:
        target = self.dist / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    # --- content

    def candidate(self) -> None:
        """Everything that release.json names, and release.json."""
        images = [self._image("pause"), self._image("hardened-etcd")]
        charts = [self._chart("rfo-coredns")]
        layout = [d for i in images for d in i["described"]] + [d for c in charts for d in c["described"]]
        self.write("images/oci-layout", LAYOUT)
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": layout}
        self.write("images/index.json", canonical(index))
        for arch in ARCHES:
            self._tarball(arch)
            self._bundle(arch, images)
        if self.packages:
            shutil.copytree(self.packages, self.dist / "rpm")
        self.write("NOTES.md", b"# notes\n")
        self.write(f"{self.base}.lock", b"rfo-base-lock\n")
        for name in [f"{i['name']}.linux-{a}" for i in images for a in ARCHES] + [f"rfo.linux-{a}" for a in ARCHES]:
            document = {"SPDXID": "SPDXRef-DOCUMENT", "spdxVersion": "SPDX-2.3", "name": name}
            self.write(f"sbom/{name}.spdx.json", json.dumps(document, indent=1).encode() + b"\n")
        self.write("sbom/release.spdx.json", json.dumps({"spdxVersion": "SPDX-2.3"}, indent=1).encode() + b"\n")
        for arch in ARCHES:
            names = [f"rfo-images.linux-{arch}.tar.zst", f"rfo-images.linux-{arch}.txt", f"rfo.linux-{arch}.tar.gz"]
            lines = [f"{self.digest(n).hex}  {n}\n" for n in names]
            self.write(f"sha256sum-{arch}.txt", "".join(lines).encode())
        self.write("release.json", render_manifest(self.edit("manifest", self._manifest(images))))

    def digest(self, path: str) -> Digest:
        return Digest.of_file(self.dist / path)

    def _blob(self, data: bytes) -> Path:
        digest = Digest.of_bytes(data)
        self.write(f"images/blobs/sha256/{digest.hex}", data)
        return self.dist / "images/blobs/sha256" / digest.hex

    def _image(self, name: str) -> dict[str, Any]:
        manifests, platforms = [], {}
        for arch in ARCHES:
            plain = self.dist.parent / f"{name}-{arch}.tar"
            write_tar(plain, [Entry(RootedPath(f"bin/{name}"), 0o755, EPOCH, f"{name} {arch}".encode())], time=EPOCH)
            diff, layer = Digest.of_file(plain), self._blob(gzip.compress(plain.read_bytes(), mtime=0))
            plain.unlink()
            platform = {"architecture": arch, "os": "linux"}
            config = {**platform, "created": DATE, "config": {}, "rootfs": {"type": "layers", "diff_ids": [str(diff)]}}
            manifest = {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": describe(self._blob(canonical(config)), "application/vnd.oci.image.config.v1+json"),
                "layers": [describe(layer, "application/vnd.oci.image.layer.v1.tar+gzip")],
            }
            manifests.append(describe(self._blob(canonical(manifest)), MANIFEST, platform=platform))
            platforms[f"linux/{arch}"] = manifests[-1]["digest"]
        index = self._blob(canonical({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}))
        tag = f"{self.version.replace('+', '-')}-build20221118"
        reference = f"docker.io/rfolabs/{name}:{tag}"
        described = describe(index, INDEX, annotations={NAME: reference, REF_NAME: tag})
        return {
            "name": name,
            "references": [reference],
            "digest": described["digest"],
            "platforms": platforms,
            "described": [described],
        }

    def _chart(self, name: str) -> dict[str, Any]:
        version = self.version.removeprefix("v")
        text = f"apiVersion: v2\nname: {name}\ndescription: a chart\nversion: {version}\n".encode()
        plain = self.dist.parent / "chart.tar"
        write_tar(plain, [Entry(RootedPath(f"{name}/Chart.yaml"), 0o644, EPOCH, text)], time=EPOCH)
        tgz = gzip.compress(plain.read_bytes(), mtime=0)
        plain.unlink()
        self.write(f"charts/{name}-{version}.tgz", tgz)
        config = canonical({"apiVersion": "v2", "name": name, "description": "a chart", "version": version})
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": describe(self._blob(config), "application/vnd.cncf.helm.config.v1+json"),
            "layers": [describe(self._blob(tgz), "application/vnd.cncf.helm.chart.content.v1.tar+gzip")],
        }
        tag = version.replace("+", "_")
        names = {NAME: f"docker.io/rfolabs/{name}:{tag}", REF_NAME: tag}
        return {"described": [describe(self._blob(canonical(manifest)), MANIFEST, annotations=names)]}

    def _tarball(self, arch: str) -> None:
        program = f"#!/bin/sh\necho rfo version {self.version} linux/{arch}\n".encode()
        entries = [Entry(RootedPath("bin/rfo"), 0o755, EPOCH, program)]
        entries += [Entry(RootedPath(p), m, EPOCH, d) for p, (m, d) in installed_files(REPO / "install").items()]
        plain = self.dist.parent / "node.tar"
        write_tar(plain, entries, time=EPOCH)
        self.write(f"rfo.linux-{arch}.tar.gz", gzip.compress(plain.read_bytes(), mtime=0))
        plain.unlink()

    def _bundle(self, arch: str, images: Sequence[Mapping[str, Any]]) -> None:
        from backports.zstd import compress

        plain = self.dist.parent / "bundle.tar"
        write_tar(plain, [Entry(RootedPath("oci-layout"), 0o644, EPOCH, LAYOUT)], time=EPOCH)
        self.write(f"rfo-images.linux-{arch}.tar.zst", compress(plain.read_bytes()))
        plain.unlink()
        lines = sorted(f"{r}@{i['digest']}\n" for i in images for r in i["references"])
        self.write(f"rfo-images.linux-{arch}.txt", "".join(lines).encode())

    def _manifest(self, images: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        artifacts = []
        for path in sorted(p for p in self.dist.rglob("*") if p.is_file()):
            name = path.relative_to(self.dist).as_posix()
            if name == "release.json" or name.startswith(FOLDERS):
                continue
            entry: dict[str, Any] = {"name": name, "digest": str(self.digest(name)), "size": path.stat().st_size}
            owners = [a for a in ARCHES if f"-{a}." in name]
            artifacts.append(entry | ({"platform": f"linux/{owners[0]}"} if owners else {}))
        platforms = [f"linux/{a}" for a in ARCHES]
        source = {
            "unit": "rfo",
            "version": self.version,
            "platforms": platforms,
            "go": "1.20.14",
            "tree": "sha256:" + "1" * 64,
        }
        return {
            "schema": SCHEMA,
            "version": self.version,
            "upstream": "v1.0.0+rke2r1",
            "date": DATE,
            "stand_in": self.stand_in,
            "platforms": platforms,
            "bases": dict.fromkeys(platforms, self.base),
            "inputs": {p: {"definition": "sha256:" + "2" * 64} for p in platforms},
            "components": [{"name": "rfo", "license": "Apache-2.0", "sources": [source]}],
            "deviations": [{"what": "go 1.20.14", "why": "1.19 is out of support"}],
            "binaries": [
                {
                    "name": "rfo",
                    "component": "rfo",
                    "unit": "rfo",
                    "platform": f"linux/{a}",
                    "digest": str(Digest.of_bytes(a.encode())),
                    "size": len(a),
                }
                for a in ARCHES
            ],
            "images": [{k: v for k, v in i.items() if k != "described"} for i in images],
            "artifacts": artifacts,
        }

    # --- links and layout

    def links(self, role: str) -> None:
        """What each step took and gave, by who did it."""
        for path, data in make_links(self.facts(), self.signing(role)).items():
            self.write(path, data)

    def facts(self) -> "Stated":
        """What a signer finds."""
        manifest = read_published(self.dist).manifest
        found = {n: Found(d) for subjects in self.subjects().values() for n, d in subjects.items()}
        found |= {a.name: Found(Digest.parse(a.digest)) for a in manifest.artifacts}
        locks = {f"{self.base}.lock": self.digest(f"{self.base}.lock"), "sources.lock": Digest.of_bytes(b"sources")}
        return Stated(manifest, found, locks)

    def layout_target(self) -> bytes:
        """The trust root's layout.json, with the keys of who may build."""
        keys = {r: load_signing(r, self.keys).key for r in ("builder", "rebuilder")}
        return compile_layout(LAYOUT_SOURCE, keys)

    # --- statements

    def subjects(self) -> dict[str, dict[str, Digest]]:
        """By kind: what a builder states, by name."""
        manifest = self.manifest
        kinds = ["binary", "image", "tarball", "bundle", "chart", "document", *(["rpm"] if self.packages else [])]
        found: dict[str, dict[str, Digest]] = {k: {} for k in kinds}
        for b in manifest["binaries"]:
            arch = b["platform"].removeprefix("linux/")
            found["binary"][f"binary/{b['unit']}/{arch}/{b['name']}"] = Digest.parse(b["digest"])
        for i in manifest["images"]:
            found["image"][f"image/{i['name']}"] = Digest.parse(i["digest"])
            for platform, digest in i["platforms"].items():
                found["image"][f"image/{i['name']}/{platform.removeprefix('linux/')}"] = Digest.parse(digest)
        for entry in json.loads((self.dist / "images/index.json").read_bytes())["manifests"]:
            if entry["mediaType"] == MANIFEST:
                name = entry["annotations"][NAME].rpartition("/")[2].partition(":")[0]
                found["chart"][f"chart/{name}"] = Digest.parse(entry["digest"])
        for a in manifest["artifacts"]:
            kind = kind_of(a["name"])
            if kind in found:
                found[kind][a["name"]] = Digest.parse(a["digest"])
        found["document"]["release.json"] = self.digest("release.json")
        return found

    def state(self, path: str, subjects: Mapping[str, Digest], kind: str, predicate: dict[str, Any], role: str) -> None:
        """Write a statement that `role` signs."""
        changed = self.edit(path, {"subjects": dict(subjects), "type": kind, "predicate": predicate})
        payload = make_statement(changed["subjects"], changed["type"], changed["predicate"])
        self.write(path, self.sealed(payload, self.signers.get(path, role)))

    def sealed(self, payload: bytes, role: str) -> bytes:
        """The bundle around a statement that `role` signs."""
        if role == "release" and self.certified:
            return self.certified([payload])[0]
        signing = self.signing(role)
        return keyed_bundle(payload, signing.sign(pae(PAYLOAD_TYPE, payload)), spki_of(signing.key))

    def build(self, role: str, folder: str = "") -> None:
        """What a builder or rebuilder signs of what it made; `folder` names its place below provenance/ otherwise."""
        place = f"provenance/{folder or role}-{self.keyid8(role)}"
        if role in ("builder", "rebuilder"):
            self.links(role)
        for kind, subjects in self.subjects().items():
            self.state(f"{place}/{kind}.sigstore.json", subjects, PROVENANCE, self._provenance(kind, role), role)
        if role.startswith("rebuilder"):
            predicate = {
                "rebuilder": {"id": self.id_of(role)},
                "candidate": {"sha256": self.digest("release.json").hex},
                "release": self.version,
                "variations": ["time"],
                "notVaried": {},
                "different": [],
            }
            everything = {n: d for subjects in self.subjects().values() for n, d in subjects.items()}
            self.state(f"{place}/rebuild.sigstore.json", everything, REBUILD, predicate, role)
            return
        for path in sorted((self.dist / "sbom").iterdir()):
            name = path.name.removesuffix(".spdx.json")
            document = json.loads(path.read_bytes())
            self.state(f"{place}/sbom/{name}.sigstore.json", self._described(name), SPDX, document, role)

    def _described(self, name: str) -> dict[str, Digest]:
        if name == "release":
            return {"release.json": self.digest("release.json")}
        if (self.dist / f"{name}.tar.gz").exists():
            return {f"{name}.tar.gz": self.digest(f"{name}.tar.gz")}
        image, _, arch = name.partition(".linux-")
        subject = f"image/{image}/{arch}"
        return {subject: self.subjects()["image"][subject]}

    def _provenance(self, kind: str, role: str) -> dict[str, Any]:
        manifest = self.manifest
        subjects = self.subjects()[kind]
        return {
            "buildDefinition": {
                "buildType": BUILD,
                "externalParameters": {
                    "release": self.version,
                    "kind": kind,
                    "platforms": manifest["platforms"],
                    "bases": manifest["bases"],
                    "deviations": manifest["deviations"],
                },
                "internalParameters": {
                    "actions": dict.fromkeys(subjects, "writer"),
                    "engine": "3" * 64,
                    "dirty": False,
                },
                "resolvedDependencies": [{"uri": "pkg:golang/std@1.20.14", "digest": {"dirHash1": "4" * 64}}],
            },
            "runDetails": {"builder": {"id": self.id_of(role)}},
        }

    def promote(self) -> None:
        """What only a promoted release has, the release statement last."""
        place = "provenance/release"
        expires = datetime.now(UTC) + timedelta(days=self.days)
        layout = make_layout(read_compiled(self.layout_target()), read_published(self.dist).manifest, expires)
        self.write("provenance/layout.json", sign_layout(layout, self.signing("release")))
        nameless = [
            {"digest": {"sha256": d.hex}}
            for d in sorted(
                {
                    d
                    for k in ("image", "chart")
                    for n, d in self.subjects()[k].items()
                    if n.startswith(("image/", "chart/"))
                }
            )
        ]
        signature = {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": nameless,
            "predicateType": IMAGE_SIGNATURE,
            "predicate": {},
        }
        self.write(f"{place}/images.sigstore.json", self.sealed(canonical(signature), "release"))
        if self.certified:
            provenance = f"provenance/builder-{self.keyid8('builder')}/image.sigstore.json"
            payload = read_bundle((self.dist / provenance).read_bytes(), provenance).payload
            self.write(f"{place}/provenance.sigstore.json", self.sealed(payload, "release"))
        self.write(f"{place}/legacy.json", canonical({"signatures": []}) + b"\n")
        for chart in (self.dist / "charts").glob("*.tgz"):
            self.write(f"charts/{chart.name}.prov", b"-----BEGIN PGP SIGNED MESSAGE-----\n")
        self.write("rfo-verify", render_verifier())
        self.write("install-rfo.sh", b"#!/bin/sh\n")
        self.seal()

    def seal(self) -> None:
        """The release statement, over the folder as it is."""
        subjects = {n: self.digest(n) for n in files(self.dist) if n != STATEMENT and not n.startswith("trust/")}
        manifest = self.manifest
        predicate = {
            "purl": f"pkg:generic/rfo@{self.version.replace('+', '%2B')}",
            "release": {
                "version": self.version,
                "folder": self.name,
                "date": manifest["date"],
                "policy": "development",
                "development": True,
            },
        }
        self.state(STATEMENT, subjects, RELEASE, predicate, "release")

    # --- the trust root

    def policy(self) -> dict[str, Any]:
        """The development policy, with the keys of this release's roles."""
        data = compile_policy(POLICY_SOURCE, REPO, lambda role: load_signing(role, self.keys).key)
        policy: dict[str, Any] = json.loads(data)
        return self.edit("policy", policy)

    def publish(self, custom: Mapping[str, Any] | None = None) -> None:
        """Metadata that name the release statement, and their snapshot in the release."""
        if not self.root.exists():
            self.write_root()
        statement = (self.dist / STATEMENT).read_bytes()
        policy, layout = canonical(self.policy()) + b"\n", self.layout_target()
        targets = {"policy.json": self.put("policy.json", policy), "layout.json": self.put("layout.json", layout)}
        if self.trusted_root:
            targets["trusted_root.json"] = self.put("trusted_root.json", self.trusted_root)
        path = f"releases/{self.name}/release.sigstore.json"
        named = self.put(path, statement)
        named.unrecognized_fields["custom"] = {"version": self.version, **(custom or {})}
        self.write_metadata(targets, {path: named})

    def put(self, path: str, data: bytes) -> TargetFile:
        """Keep a target; returns how metadata name it."""
        folder, _, name = path.rpartition("/")
        target = self.repository / "targets" / folder / f"{Digest.of_bytes(data).hex}.{name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        return TargetFile.from_data(path, data, ["sha256"])

    def write_metadata(self, targets: dict[str, TargetFile], releases: dict[str, TargetFile]) -> None:
        """The next version of everything but the root, and its snapshot in the release."""
        release = load_signing("release", self.keys).key
        role = DelegatedRole("release", [release.keyid], 1, True, paths=["releases/*/*"])
        delegations = Delegations({release.keyid: release}, roles={"release": role})
        meta = {
            "release.json": self.save("release", Targets(**self._head("release"), targets=releases), ["release"]),
            "targets.json": self.save(
                "targets", Targets(**self._head("targets"), targets=targets, delegations=delegations), ["targets"]
            ),
        }
        snapshot = self.save("snapshot", Snapshot(**self._head("snapshot"), meta=meta), ["snapshot"])
        self.save("timestamp", Timestamp(**self._head("timestamp"), snapshot_meta=snapshot), ["timestamp"])
        self.snapshot()

    def write_root(self, roles: Mapping[str, Sequence[str]] | None = None, signers: Sequence[str] = ()) -> None:
        """The next root. `roles` are keys by TUF role, where they are not those of the same name."""
        keys = {"root": ["root-1", "root-2", "root-3"], **{r: [r] for r in ("targets", "snapshot", "timestamp")}}
        keys.update({r: list(k) for r, k in (roles or {}).items()})
        public = {r: load_signing(r, self.keys).key for names in keys.values() for r in names}
        root = Root(
            **self._head("root"),
            keys={k.keyid: k for k in public.values()},
            roles={r: Role([public[n].keyid for n in names], 2 if r == "root" else 1) for r, names in keys.items()},
            consistent_snapshot=True,
        )
        root.unrecognized_fields["x-rfo-name"] = "development"
        self.save("root", root, signers or ["root-1", "root-2"])

    def _head(self, role: str) -> dict[str, Any]:
        self.versions[role] = self.versions.get(role, 0) + 1
        expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=self.days)
        return {"version": self.versions[role], "expires": expires}

    def save(self, name: str, signed: Any, roles: Sequence[str]) -> MetaFile:
        """Sign and write metadata; returns how others name it."""
        envelope = SimpleEnvelope.from_signed(signed)
        if name in self.edits:
            data = json.loads(envelope.payload)
            envelope.payload = canonical(self.edit(name, data))
        for role in roles:
            envelope.sign(self.signing(role).signer)
        data = canonical(envelope.to_dict()) + b"\n"
        place = "timestamp.json" if name == "timestamp" else f"{signed.version}.{name}.json"
        target = self.repository / "metadata" / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        return MetaFile(signed.version, len(data), {"sha256": Digest.of_bytes(data).hex})

    def snapshot(self) -> None:
        """Copy the newest metadata and the targets that every release carries into the release."""
        trust = self.dist / "trust"
        shutil.rmtree(trust, ignore_errors=True)
        (trust / "metadata").mkdir(parents=True)
        (trust / "targets").mkdir()
        newest = [f"{self.versions[r]}.{r}.json" for r in ("snapshot", "targets", "release")]
        roots = [p.name for p in (self.repository / "metadata").glob("*.root.json")]
        for name in [*roots, *newest, "timestamp.json"]:
            shutil.copy(self.repository / "metadata" / name, trust / "metadata" / name)
        payload = json.loads((trust / "metadata" / f"{self.versions['targets']}.targets.json").read_bytes())["payload"]
        for name, target in json.loads(base64.b64decode(payload))["targets"].items():
            file = f"{target['hashes']['sha256']}.{name}"
            shutil.copy(self.repository / "targets" / file, trust / "targets" / file)


@dataclass(frozen=True)
class Found:
    """Something that a signer found."""

    digest: Digest


@dataclass(frozen=True)
class Stated:
    """What a signer states, as far as links need it."""

    manifest: Manifest
    subjects: Mapping[str, Found]
    locks: Mapping[str, Digest]


def promoted(folder: Path, **variations: Any) -> Trusted:
    """A promoted release in `folder`, made with variations: fields of Trusted."""
    version, stand_in, base = (
        variations.get(k, d) for k, d in (("version", VERSION), ("stand_in", True), ("base", "debian-13"))
    )
    dist = folder / "dist" / (f"{version}@{base}" if stand_in else version)
    dist.mkdir(parents=True)
    made = Trusted(dist, folder / "repository", folder / "keys", **variations)
    for role in ROLES:
        if not (made.keys / f"{role}.key").exists():
            new_key(role, made.keys)
            (made.keys / f"{role}.id").write_text(f"{IDS}{role}\n")
    made.candidate()
    made.build("builder")
    made.build("rebuilder")
    made.promote()
    made.publish()
    return made


def copied(made: Trusted, folder: Path, **variations: Any) -> Trusted:
    """The same release with the same keys, to be changed."""
    for name in ("dist", "repository"):
        shutil.copytree(made.dist.parent.parent / name, folder / name)
    dist, versions = folder / "dist" / made.dist.name, dict(made.versions)
    return replace(made, dist=dist, repository=folder / "repository", versions=versions, **variations)


def kind_of(path: str) -> str:
    """The kind of a published file; `layout` of what only the release statement names."""
    if path.startswith("images/"):
        return "layout"
    if path.startswith("charts/"):
        return "chart"
    if path.startswith("rpm/"):
        return "rpm"
    if path.startswith("rfo-images"):
        return "bundle"
    return "tarball" if path.startswith("rfo.linux-") else "document"


def files(dist: Path) -> list[str]:
    """Every file of a release, by its path."""
    return sorted(p.relative_to(dist).as_posix() for p in dist.rglob("*") if not p.is_dir())


def tuf_key(key: Key) -> dict[str, Any]:
    """A public key as policies and metadata hold it."""
    return {"keytype": key.keytype, "scheme": key.scheme, "keyval": {"public": key.keyval["public"]}}
