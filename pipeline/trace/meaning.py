"""What parts of an action's key mean, in words: which recipe's key, which layer, whose digest. Data; no I/O."""

MEANINGS = {
    "layer": {
        "parameters.recipe": "{rest} of the layer in the base's definition",
        "parameters.below": "packages of the layers that it stands on",
        "parameters.root": "the layer's own packages",
        "parameters.programs": "name of the program, and time of its source",
        "parameters.time": "the release's date",
        "parameters.gzip": "how layers are compressed",
        "inputs": "the file /{rest} in the layer",
    },
    "image": {
        "parameters.config.User": "user of images/openeuler/{subject}.yaml",
        "parameters.config.Env": "environment of images/openeuler/{subject}.yaml",
        "parameters.config.Entrypoint": "entrypoint of images/openeuler/{subject}.yaml",
        "parameters.config.Cmd": "command of images/openeuler/{subject}.yaml",
        "parameters.layers": "which layers it has: layer, programs and charts of images/openeuler/{subject}.yaml",
        "parameters.facts": "label {rest}",
        "parameters.budget": "budget of images/openeuler/{subject}.yaml",
        "parameters.date": "the release's date",
        "inputs": "what its layer number {rest}, from 00, is",
    },
    "inspect": {
        "parameters.programs": "which programs are in the image",
        "parameters.starts": "what has to start in the image, and what it prints",
        "inputs": "{rest} of the image",
    },
    "index": {
        "parameters.facts": "annotation {rest}",
        "inputs": "the image for {rest}",
    },
    "layout": {
        "parameters.names": "names of images and charts",
        "inputs": "the index or manifest number {rest}, from 000",
    },
    "bundle": {
        "parameters.names": "names of the image {rest}",
        "parameters.command": "how bundles are compressed",
        "parameters.time": "the release's date",
        "inputs": "part of an image, by its digest: {rest}",
    },
    "chart": {
        "parameters.files": "charts/{subject}/{rest}",
        "parameters.packing": "{rest} of charts/{subject}/packing.yaml",
        "parameters.images": "name and version of the image at {rest} in its values",
        "parameters.version": "the release's version",
        "parameters.time": "the release's date",
        "parameters.command": "how charts are compressed",
        "inputs": "digest of the image {rest}, which is written into its values",
    },
    "sbom": {
        "parameters.contents": "{rest} of what it describes",
        "parameters.release": "{rest} of the release",
        "parameters.sources": "pins of {rest}",
        "inputs": "{rest}",
    },
}
"""Kind of action to the beginning of a part's path, to its meaning.

`{rest}` is what follows in the path, `{subject}` the second word of the action's name.
"""


def meaning_of(action: str, path: str) -> str:
    """What the part at `path` of an action's key is, for people; empty if its name says it all."""
    kind, _, subject = action.partition("/")
    found = [p for p in MEANINGS.get(kind, {}) if path == p or path.startswith(f"{p}.")]
    if not found:
        return ""
    longest = max(found, key=len)
    return MEANINGS[kind][longest].format(rest=path[len(longest) + 1 :], subject=subject.partition("/")[0])
