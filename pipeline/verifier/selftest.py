"""A known signature and a few known answers: does openssl on this host do what is expected of it?"""

from __future__ import annotations

import base64
import platform

from pipeline.verifier.encoding import canonical
from pipeline.verifier.openssl import HostLacks, PublicKey, find_openssl, run_openssl, verifies
from pipeline.verifier.versions import compare_versions

_KEY = (
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEigAqKeSq4RpQ+vSnS0maaFFveAiXIIEX"
    "IkjtL71ldb2a++wxOay9f4dN3aTzYTrX4rpfH7tFo3QHwtTQZK4YAw=="
)
_SIGNATURE = "MEUCIQC0NRoz6QBnlTc0lFdkFzMNAgMVNRxB6ZUuO1NBw1751gIgULEBQ0Eb51brJyr5xepBruCDZxnZnj8lnOOjFgRwguI="
_MESSAGE = b"RFO"
_OLDER = (("v1.25.4+rfor9", "v1.25.4+rfor10"), ("v1.25.9+rfor1", "v1.25.10+rfor1"), ("v1.9.0+rfor1", "v1.10.0+rfor1"))


def self_test() -> str:
    """What was tested, in one line. Raises HostLacks if anything came out otherwise."""
    key, signature = PublicKey(base64.b64decode(_KEY)), base64.b64decode(_SIGNATURE)
    flipped = signature[:-1] + bytes([signature[-1] ^ 1])
    checks = {
        "openssl refuses a good signature": verifies(key, _MESSAGE, signature),
        "openssl accepts an altered message": not verifies(key, _MESSAGE + b"!", signature),
        "openssl accepts an altered signature": not verifies(key, _MESSAGE, flipped),
        "versions come out in another order": all(compare_versions(a, b) == -1 for a, b in _OLDER),
        "JSON comes out in another form": canonical({"b": [1, None], "a": "é"}) == '{"a":"é","b":[1,null]}'.encode(),
    }
    for failure, passed in checks.items():
        if not passed:
            raise HostLacks(f"the self-test failed: {failure}")
    version = run_openssl([find_openssl(), "version"]).stdout.decode(errors="replace").strip()
    return f"self-test passed: {version}, Python {platform.python_version()}"
