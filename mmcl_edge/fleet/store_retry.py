"""Trying again: after a growing, random delay, so that many devices do not come back at once, and not for ever."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from mmcl_edge.errors import StoreError
from mmcl_edge.fleet.store_errors import classify, unreachable

Result = TypeVar("Result")

RETRIES = 4
FIRST_DELAY_S = 0.25
LONGEST_DELAY_S = 10.0


class Retry:
    """Runs calls of a store, again where their failure may pass.

    Args:
        shown: the store's URL without secrets, for messages.
        retries: how often a failed call is tried again.
        first_delay_s: seconds before the second try; each later one waits twice as long, and up to half less.
    """

    def __init__(self, shown: str, *, retries: int = RETRIES, first_delay_s: float = FIRST_DELAY_S) -> None:
        self._shown = shown
        self._retries = retries
        self._first_delay_s = first_delay_s
        self._random = random.Random()
        self.sleep: Callable[[float], None] = time.sleep

    def run(self, action: str, call: Callable[[], Result]) -> Result:
        """What ``call`` returns, in the end.

        Args:
            action: what it does, such as ``read metadata/timestamp.json``.
            call: is safe to repeat.

        Raises:
            StoreError: it was refused, or failed once too often.
        """
        failures = 0
        while True:
            try:
                return call()
            except StoreError:
                raise
            except Exception as error:  # noqa: BLE001 - classified in one place
                failures += 1
                self.wait_or_raise(error, action, failures)

    def wait_or_raise(self, error: Exception, action: str, failures: int) -> None:
        """Wait before the next try, or end.

        Raises:
            StoreError: ``error`` will not pass, or ``failures`` are too many.
        """
        from obstore.exceptions import BaseError

        if not isinstance(error, BaseError | OSError | ValueError | NotImplementedError):
            raise error
        failure = classify(error, self._shown, action)
        if not failure.passing:
            raise failure.error from None
        if failures > self._retries:
            raise unreachable(failure, failures) from None
        self.sleep(self._delay_s(failures))

    def _delay_s(self, failures: int) -> float:
        longest = min(LONGEST_DELAY_S, self._first_delay_s * 2.0 ** (failures - 1))
        return longest * self._random.uniform(0.5, 1.0)
