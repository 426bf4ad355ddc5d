"""Which processors a sandbox may use when it gets fewer than there are: those that the others leave alone."""

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Processors:
    """Hands out the processors of this process, all but one at a time."""

    def __init__(self) -> None:
        self._users: Counter[int] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def fewer(self) -> Iterator[frozenset[int]]:
        """All processors but the one with most users; the only one where there is no other."""
        with self._lock:
            order = sorted(os.sched_getaffinity(0), key=lambda p: (self._users[p], p))
            chosen = frozenset(order[:-1] or order)
            self._users.update(chosen)
        try:
            yield chosen
        finally:
            with self._lock:
                self._users.subtract(chosen)
