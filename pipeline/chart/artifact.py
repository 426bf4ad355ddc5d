"""What goes around a packed chart: the OCI artifact of registries, and the HelmChart that a node installs. Pure."""

from base64 import b64encode
from datetime import UTC, datetime
from typing import Any

from pipeline.chart.definition import ChartFile
from pipeline.graph import canonical
from pipeline.model import Digest

# https://helm.sh/docs/topics/registries/#helm-chart-manifest
CONFIG = "application/vnd.cncf.helm.config.v1+json"
CONTENT = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
NAMESPACE = "kube-system"
DIGEST_ANNOTATION = "rfolabs.github.io/chart-digest"
"""On a HelmChart: SHA-256 of the packed chart inside."""
_OCI = "org.opencontainers.image"


def chart_config(file: ChartFile) -> bytes:
    """The config of the OCI artifact: Chart.yaml as JSON."""
    facts = file.model_dump(mode="json", by_alias=True, exclude_none=True)
    return canonical({key: value for key, value in facts.items() if value != []})


def chart_manifest(file: ChartFile, config: bytes, tgz: bytes, epoch: int) -> bytes:
    """The manifest of the OCI artifact, annotated as `helm push` does, but with `epoch` as the time.

    Helm's tag for it is the version with `_` for `+`.
    """
    annotations = {
        f"{_OCI}.title": file.name,
        f"{_OCI}.version": file.version,
        f"{_OCI}.description": file.description,
        f"{_OCI}.created": datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        f"{_OCI}.url": file.home or "",
        f"{_OCI}.source": next(iter(file.sources), ""),
        f"{_OCI}.authors": ", ".join(m.name + (f" ({m.email})" if m.email else "") for m in file.maintainers),
    }
    return canonical(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": _descriptor(CONFIG, config),
            "layers": [_descriptor(CONTENT, tgz)],
            "annotations": {key: value for key, value in annotations.items() if value},
        }
    )


def helm_chart(name: str, tgz: bytes, *, bootstrap: bool) -> bytes:
    """The HelmChart (helm.cattle.io/v1, of k3s-io/helm-controller) with a packed chart inside."""
    return f"""\
apiVersion: helm.cattle.io/v1
kind: HelmChart
metadata:
  name: {name}
  namespace: {NAMESPACE}
  annotations:
    {DIGEST_ANNOTATION}: "{Digest.of_bytes(tgz)}"
spec:
  bootstrap: {str(bootstrap).lower()}
  targetNamespace: {NAMESPACE}
  valuesContent: ""
  chartContent: {b64encode(tgz).decode()}
""".encode()


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(Digest.of_bytes(data)), "size": len(data)}
