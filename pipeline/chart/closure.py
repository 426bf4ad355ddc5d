"""Whether an offline bundle holds every image that is needed without a network, by digest, and no other."""

from collections.abc import Mapping, Sequence

from pipeline.chart.images import chart_images
from pipeline.engine import code_digest
from pipeline.errors import BuildError
from pipeline.graph import Action, Ref, Work
from pipeline.image.bundle import ALL, bundle_name
from pipeline.image.names import Image
from pipeline.model import platform


def closure_action(images: Sequence[Image], charts: Mapping[str, str], sets: Sequence[str], arch: str) -> Action:
    """The action that judges the bundles of one architecture; `charts` are packed charts, name to file name.

    Needed are the images that charts name, and those that the node itself starts: recipes say which.
    """
    parameters = {
        "code": str(code_digest("chart/closure.py", "chart/images.py")),
        "node": {i.name: [str(r) for r in i.references] for i in images if i.recipe.node},
        "sets": list(sets),
    }

    def run(work: Work) -> None:
        lists = {s: set(work.inputs[f"list/{s or 'all'}"].read_text().splitlines()) for s in sets}
        needed: dict[str, str] = {}
        for name in charts:
            for path, pinned in chart_images(work.inputs[f"chart/{name}"]).items():
                needed[str(pinned)] = f"chart {name}, value {path}"
        of_node = {str(r) for i in images if i.recipe.node for r in i.references}
        problems = judge(lists, needed, of_node, arch)
        if problems:
            raise BuildError(f"bundles for {platform(arch)}: {len(problems)} findings:\n  " + "\n  ".join(problems))
        (work.out / "report.txt").write_text("".join(f"{n}: {where}\n" for n, where in sorted(needed.items())))

    files = {f"list/{s or 'all'}": Ref(f"bundle/{s or 'all'}/{arch}", f"{bundle_name(s, arch)}.txt") for s in sets}
    files |= {f"chart/{name}": Ref(f"chart/{name}", file) for name, file in charts.items()}
    return Action(f"closure/{arch}", parameters, run, files, judges=True, disk=1 << 20, seconds=0.5)


def judge(lists: Mapping[str, set[str]], needed: Mapping[str, str], of_node: set[str], arch: str) -> list[str]:
    """What is wrong with bundles, one line each.

    `lists` are their lines, `NAME:TAG@DIGEST`, by set; `needed` are such references with the place that names them;
    `of_node` are references, without digest, that the node starts by itself.
    """
    everything = lists[ALL]
    problems = [
        f"{where} names {reference}, which {bundle_name(ALL, arch)} does not hold"
        for reference, where in sorted(needed.items())
        if reference not in everything
    ]
    named = {line.partition("@")[0] for line in everything}
    problems += [f"the node starts {r}, which {bundle_name(ALL, arch)} does not hold" for r in sorted(of_node - named)]
    digests = {r.partition("@")[2] for r in needed} | {
        x.partition("@")[2] for x in everything if x.partition("@")[0] in of_node
    }
    problems += [
        f"{bundle_name(ALL, arch)} holds {line}, which no chart names and the node does not start"
        for line in sorted(everything)
        if line.partition("@")[2] not in digests
    ]
    parts = [line for name, lines in lists.items() if name != ALL for line in lines]
    if sorted(parts) != sorted(everything):
        odd = sorted(set(parts) ^ everything) or sorted(x for x in parts if parts.count(x) > 1)
        problems.append(f"the sets of {bundle_name(ALL, arch)} are not its parts: {odd[0]}")
    return problems
