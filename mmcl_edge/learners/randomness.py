"""Random numbers by name: every generator follows from the seed and what it is for."""

from __future__ import annotations

import hashlib

import torch


def generator_for(seed: int, *names: object) -> torch.Generator:
    """A generator that depends on ``seed`` and ``names`` alone."""
    digest = hashlib.sha256(repr((seed, *names)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
