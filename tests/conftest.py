"""Fixtures that several folders share: tiny bundles, one copy of each a test run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mmcl_edge.bundle import Bundle
from tests import bundles

TinyBundle = Callable[..., Bundle]


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """As on a device: small tensors gain nothing from more threads, and on a busy machine they lose a lot."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyBundle:
    """``tiny(pair, vjp)``: the tiny bundle of that kind; never write into its folder."""
    made: dict[tuple[str, str], Bundle] = {}

    def get(pair: bundles.Pair = "cnn", vjp: str = "recompute") -> Bundle:
        if (pair, vjp) not in made:
            folder = tmp_path_factory.mktemp("bundles") / f"{pair}-{vjp}"
            made[pair, vjp] = bundles.tiny_bundle(folder, pair=pair, vjp=vjp)
        return made[pair, vjp]

    return get
