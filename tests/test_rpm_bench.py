"""What `inv bench` measures of packages is what it says."""

import pytest
from engine import ARCHES, BASE, REAL, REPO, environment, fails, given, make_context, run_actions, shared_store
from rpm_packages import BUNDLE, inputs_of, release, tarball

from pipeline.bench.images import Made
from pipeline.bench.packages import packaging
from pipeline.graph import Graph
from pipeline.rpm.repository import repository_actions
from pipeline.rpm.signatures import Signer
from pipeline.scheduler import Result


def test_what_cannot_be_compared_is_said() -> None:
    nothing = Made(make_context(REPO, version=REAL, base=BASE), Graph([]), Result())
    assert "has no packages" in fails(lambda: packaging(nothing)).reason
    with environment(PATH="/nonexistent"):
        assert "no rpmbuild" in fails(lambda: packaging(nothing)).reason


@pytest.mark.full
def test_packages_are_made_on_both_sides() -> None:
    sources = [given(f"tarball/{arch}", {f"rfo.linux-{arch}.tar.gz": tarball(arch)}) for arch in ARCHES]
    sources += [given(f"bundle/all/{a}", {f"rfo-images.linux-{a}.tar.zst": BUNDLE + a.encode()}) for a in ARCHES]
    context = make_context(REPO, version=REAL, base=BASE)
    context.__dict__["inputs"] = inputs_of()
    graph = Graph([*sources, *repository_actions(release(), inputs_of(), Signer())])
    result = run_actions(shared_store(), list(graph.actions.values()))
    assert not result.failures
    assert all(seconds > 0 for seconds in packaging(Made(context, graph, result)))
