"""The Kubernetes API as a schema: objects are checked against the OpenAPI document of one Kubernetes version.

The document is api/openapi-spec/swagger.json of the module k8s.io/kubernetes, whose hash Go's checksum database knows.
It is taken strictly: a field that a type does not have is an error, as with `kubectl --validate=strict`.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from engine import store_root
from jsonschema import Draft7Validator

PLAIN = {
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"type": ["integer", "string"]},
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {"type": ["number", "string"]},
}
"""Types that the document calls text and that are read from numbers as well."""


def problems(objects: Iterable[Mapping[str, Any]], version: str) -> list[str]:
    """What the API of a Kubernetes version (`v1.25.4`) would refuse in `objects`."""
    found = []
    types = _types(version)
    for item in objects:
        name = f"{item['kind']} {item['metadata']['name']}"
        group, _, api = item["apiVersion"].rpartition("/")
        schema = types.get((group, api, item["kind"]))
        if schema is None:
            found.append(f"{name}: {version} has no {item['apiVersion']} {item['kind']}")
            continue
        validator = Draft7Validator({"$ref": f"#/definitions/{schema}", "definitions": _definitions(version)})
        found += [f"{name}: {e.json_path}: {e.message[:300]}" for e in validator.iter_errors(item)]
    return found


@cache
def _definitions(version: str) -> dict[str, Any]:
    definitions: dict[str, Any] = json.loads(_document(version).read_bytes())["definitions"]
    for definition in definitions.values():
        if "properties" in definition:
            definition.setdefault("additionalProperties", False)
    return {**definitions, **PLAIN}


@cache
def _types(version: str) -> dict[tuple[str, str, str], str]:
    """Group, version and kind to the name of the definition."""
    return {
        (kind["group"], kind["version"], kind["kind"]): name
        for name, definition in _definitions(version).items()
        for kind in definition.get("x-kubernetes-group-version-kind", [])
    }


def _document(version: str) -> Path:
    """The document of a version: fetched once, and kept beside the tests' store. The module itself is not kept."""
    folder = store_root() / "openapi"
    folder.mkdir(parents=True, exist_ok=True)
    document = folder / f"{version}.json"
    with (folder / "lock").open("w") as lock:  # test runs at the same time fetch it once
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not document.exists():
            _fetch(version, document)
    return document


def _fetch(version: str, document: Path) -> None:
    go = shutil.which("go") or str(Path(sys.executable).parent / "go")
    work = document.with_suffix(".work")
    environment = {**os.environ, "GOMODCACHE": str(work), "GOFLAGS": "-modcacherw"}
    command = [go, "mod", "download", "-json", f"k8s.io/kubernetes@{version}"]
    try:
        done = subprocess.run(
            command, cwd=document.parent, env=environment, capture_output=True, text=True, check=False, timeout=600
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (Path(json.loads(done.stdout)["Dir"]) / "api/openapi-spec/swagger.json").rename(document)
    finally:
        shutil.rmtree(work, ignore_errors=True)
