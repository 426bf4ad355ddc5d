"""Times in UTC, and the clock: what has been signed, and what was seen before, lies in the past."""

from __future__ import annotations

import calendar
import re
import time
from typing import Any

from pipeline.verifier.encoding import Refused

DAY = 86400
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


def read_time(text: Any, what: str) -> int:
    """Seconds since 1970 of a time such as 2022-11-18T00:00:00Z. Raises Refused, naming `what`."""
    try:
        if isinstance(text, str) and _TIME.fullmatch(text):
            return calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ"))
    except (ValueError, OverflowError):
        pass
    raise Refused(what, "has a malformed time", "YYYY-MM-DDThh:mm:ssZ", str(text)[:60])


def render_time(seconds: int) -> str:
    """The same the other way round."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def check_clock(now: int, floor: int, why: str) -> None:
    """Raise Refused for a clock that stands before `floor`: expired metadata would seem valid to it."""
    if now < floor:
        raise Refused(
            "the clock of this host",
            f"stands before {why}; set it right, or give the time with --as-of",
            f"{render_time(floor)} or later",
            render_time(now),
        )
