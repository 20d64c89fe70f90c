"""The books of a store with a byte budget: what it holds, what is in use, and what goes when room is needed."""

from __future__ import annotations


class Shelf:
    """Keys and sizes, the longest unused first; keys that were touched since ``release`` are never dropped.

    Without the last rule, passing over more than fits again and again would drop each key just before its turn.

    Args:
        budget_bytes: of all sizes together.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._sizes: dict[str, int] = {}
        self._claimed: set[str] = set()

    @property
    def used_bytes(self) -> int:
        """Size of everything on the shelf."""
        return sum(self._sizes.values())

    def claim(self, key: str) -> None:
        """Note that ``key`` is in use, if it is here."""
        if key in self._sizes and key not in self._claimed:
            self._claimed.add(key)
            self._sizes[key] = self._sizes.pop(key)  # to the end: the last to go

    def add(self, key: str, size_bytes: int) -> list[str] | None:
        """Make room for ``key`` and claim it.

        Returns:
            What has to go, the longest unused first; ``None``, and nothing changes, where there is no room.
        """
        excess = self.used_bytes - self._sizes.get(key, 0) + size_bytes - self.budget_bytes
        dropped: list[str] = []
        for old in (one for one in self._sizes if one not in self._claimed and one != key):
            if excess <= 0:
                break
            dropped.append(old)
            excess -= self._sizes[old]
        if excess > 0:
            return None
        for old in dropped:
            del self._sizes[old]
        self._sizes[key] = size_bytes
        self._claimed.add(key)
        return dropped

    def remove(self, key: str) -> None:
        """Forget ``key``, if it is here."""
        self._sizes.pop(key, None)
        self._claimed.discard(key)

    def release(self) -> None:
        """Nothing is in use any more."""
        self._claimed.clear()
