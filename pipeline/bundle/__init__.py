"""The source bundle: every pin of a release in one archive, to be built from on a host without network."""

from pipeline.bundle.read import import_bundle
from pipeline.bundle.write import make_bundle

__all__ = ["import_bundle", "make_bundle"]
