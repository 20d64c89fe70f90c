"""A cap on bandwidth: a token bucket."""

from __future__ import annotations

import time
from collections.abc import Callable


class TokenBucket:
    """Lets ``rate_bytes_s`` bytes a second pass on average, after a first burst of ``burst_bytes``.

    Args:
        rate_bytes_s: bytes a second; ``None`` lets everything pass.
        burst_bytes: what may pass at once after a pause.
        clock: seconds, ever rising.
        sleep: waits for so many seconds.
    """

    def __init__(
        self,
        rate_bytes_s: float | None,
        *,
        burst_bytes: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = rate_bytes_s
        self._burst = burst_bytes
        self._tokens = burst_bytes
        self._clock, self._sleep = clock, sleep
        self._seen = clock()

    def take(self, size_bytes: int) -> None:
        """Wait until ``size_bytes`` may pass."""
        if self._rate is None:
            return
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._seen) * self._rate) - size_bytes
        self._seen = now
        if self._tokens < 0:
            self._sleep(-self._tokens / self._rate)
