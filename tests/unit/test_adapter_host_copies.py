"""What happens inside an adapter asks for no value on the host: on a GPU that would be a copy and a wait a block."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmcl_edge.adapters.adapter import CrossModalityAdapter
from mmcl_edge.adapters.presence import Presence


class HostReads(TorchDispatchMode):
    """Counts operations that bring a value to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("attention", ["latents", "tokens", "none"])
def test_an_adapter_reads_no_value(attention: str, training: bool):
    adapter = CrossModalityAdapter(
        {"audio": (8, 8), "frames": (6, 4)},
        block=0,
        rank=4,
        active=2,
        attention=attention,  # type: ignore[arg-type]
        latents=3,
        scale=0.1,
        noise=1.0,
    )
    generator = torch.Generator().manual_seed(0)
    adapter.grow(5, generator, zero_gate=False)
    adapter.freeze_used("none used")
    tokens = {"audio": torch.randn(3, 7, 8), "frames": torch.randn(3, 5, 6)}
    presence = Presence(
        tuple(tokens), {"audio": torch.ones(3, dtype=torch.bool), "frames": torch.tensor([1, 0, 1]) > 0}
    )
    for name, x in tokens.items():
        mask = presence.by_name[name][:, None].expand(-1, x.shape[1])
        presence.add_mask(name, x.shape[1], mask)
    with HostReads() as reads:
        adapter(tokens, presence, generator if training else None)
    assert reads.count == 0
    with HostReads() as reads:
        bool(tokens["audio"].sum() > 0)
    assert reads.count == 1, "the counter must see what it is for"
