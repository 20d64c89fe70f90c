"""Which layers of a backbone each block of the encoder executes."""

from __future__ import annotations

from collections.abc import Iterable

from mmcl_edge.errors import ExportError


def block_count(depths: Iterable[int], requested: int | None = None) -> int:
    """B: the depth of the shallowest backbone, or ``requested`` where that many blocks are possible.

    Raises:
        ExportError: ``requested`` is below 1 or above the shallowest depth.
    """
    shallowest = min(depths)
    if requested is None:
        return shallowest
    if not 1 <= requested <= shallowest:
        raise ExportError(
            f"Expected --blocks between 1 and {shallowest} (the layers of the shallowest backbone), "
            f"but found {requested}; choose a number in that range or leave the option out."
        )
    return requested


def layer_ranges(layers: int, blocks: int) -> tuple[range, ...]:
    """0-based layer indices of each block: block ``b`` (1-based) runs ``floor((b-1)L/B)+1 .. floor(bL/B)``.

    Raises:
        ExportError: a block would be empty (``blocks > layers``) or there is none.
    """
    if not 1 <= blocks <= layers:
        raise ExportError(
            f"{layers} layers cannot be spread over {blocks} blocks; each block needs at least one layer, "
            "so choose fewer blocks with --blocks."
        )
    return tuple(range(b * layers // blocks, (b + 1) * layers // blocks) for b in range(blocks))
