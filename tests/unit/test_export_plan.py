"""How layers are spread over blocks."""

from __future__ import annotations

import pytest

from mmcl_edge.errors import ExportError
from mmcl_edge.export.plan import block_count, layer_ranges

SPREADS = {
    "one layer a block": (4, 4, [[0], [1], [2], [3]]),
    "two layers a block": (6, 3, [[0, 1], [2, 3], [4, 5]]),
    "seven stages over four blocks": (7, 4, [[0], [1, 2], [3, 4], [5, 6]]),
    "everything in one block": (3, 1, [[0, 1, 2]]),
    "five over two": (5, 2, [[0, 1], [2, 3, 4]]),
}


@pytest.mark.parametrize("layers, blocks, expected", SPREADS.values(), ids=SPREADS)
def test_layers_are_spread_evenly(layers: int, blocks: int, expected: list[list[int]]) -> None:
    assert [list(chosen) for chosen in layer_ranges(layers, blocks)] == expected


@pytest.mark.parametrize("layers", range(1, 30))
def test_every_layer_runs_once_in_order_and_block_sizes_differ_by_at_most_one(layers: int) -> None:
    for blocks in range(1, layers + 1):
        chosen = layer_ranges(layers, blocks)
        assert [i for block in chosen for i in block] == list(range(layers))
        assert max(map(len, chosen)) - min(map(len, chosen)) <= 1


@pytest.mark.parametrize("layers, blocks", [(3, 4), (3, 0), (3, -1)])
def test_empty_blocks_are_refused(layers: int, blocks: int) -> None:
    with pytest.raises(ExportError, match="cannot be spread"):
        layer_ranges(layers, blocks)


def test_the_shallowest_backbone_sets_the_number_of_blocks() -> None:
    assert block_count([12, 4, 7]) == 4
    assert block_count([12, 4, 7], 2) == 2


@pytest.mark.parametrize("requested", [0, 5, -1])
def test_an_impossible_number_of_blocks_is_refused(requested: int) -> None:
    with pytest.raises(ExportError, match=f"between 1 and 4.*found {requested}"):
        block_count([12, 4], requested)
