"""Whether a cluster's head still answers, seen before Ray does what it does about that.

A driver whose head is away for a minute is ended by Ray itself: at once, with exit code 1, which is a verdict's, and
with nothing recorded. So it is noticed earlier, and the run ends as one that can be resumed.
"""

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

LOOK_SECONDS = 5.0
PATIENCE_SECONDS = 30.0
"""How long a head may be away; Ray waits for 60 s."""
CONNECT_SECONDS = 2.0


@dataclass(slots=True)
class Pulse:
    """Looks now and then whether anybody listens at an address.

    Attributes:
        address: ``HOST:PORT`` of a cluster's head; empty where it is not known, and then it is never missed.
        timer: gives seconds from any beginning.
    """

    address: str
    timer: Callable[[], float] = time.monotonic
    _looked: float | None = field(default=None, init=False)
    _missed: float | None = field(default=None, init=False)

    def missing(self) -> float:
        """Return for how many seconds the head has been away, once that is too long; 0 while it is not."""
        if not self.address:
            return 0.0
        now = self.timer()
        if self._looked is None or now - self._looked >= LOOK_SECONDS:
            self._looked = now
            if _listens(self.address):
                self._missed = None
            elif self._missed is None:
                self._missed = now
        away = 0.0 if self._missed is None else now - self._missed
        return away if away > PATIENCE_SECONDS else 0.0


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError):
        return False
    return True
