"""Reservoir selection: of everything seen, each sample is kept with the same probability (Vitter 1985, algorithm R)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def reservoir(
    sizes: Sequence[int], *, kept: int, seen: int, capacity: int, budget_bytes: int, generator: np.random.Generator
) -> list[int]:
    """Which samples to keep of those kept so far and of new ones.

    The n-th sample ever seen takes a random place with probability ``room / n``, so that every sample seen is kept
    with that probability. Room is ``capacity`` at first. Where the samples take more than ``budget_bytes``, random ones
    go until the rest fits, and room stays what is left: it cannot grow again without favouring later samples.

    Args:
        sizes: bytes of each sample, those kept so far first, then the new ones in the order they came.
        kept: how many were kept so far.
        seen: how many came so far, kept or not.
        capacity: samples in all.
        budget_bytes: bytes in all.
        generator: draws.

    Returns:
        Positions in ``sizes``; no order is promised.
    """
    places, room = list(range(kept)), capacity if kept == seen else kept
    for number, position in enumerate([None, *range(kept, len(sizes))]):
        if position is not None:
            _offer(places, position, room=room, nth=seen + number, generator=generator)
        while sum(sizes[place] for place in places) > budget_bytes:
            places.pop(int(generator.integers(len(places))))
            room = len(places)
    return places


def _offer(places: list[int], position: int, *, room: int, nth: int, generator: np.random.Generator) -> None:
    """Let the ``nth`` sample seen (from 1) take a place, if it is drawn."""
    if len(places) < room:
        places.append(position)
        return
    place = int(generator.integers(nth))
    if place < room:
        places[place] = position
