"""Row by row is the same as all at once: what rows are cut from, where they land, and how lengths are kept apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmcl_edge.adapters.inputs import ModalityInput
from mmcl_edge.adapters.kept import apart, stacked
from mmcl_edge.runtime.segments import open_backbones
from mmcl_edge.runtime.sessions import SessionFactory
from mmcl_edge.runtime.threads import ThreadPlan
from tests.conftest import TinyBundle


@pytest.mark.parametrize("vjp", ["recompute", "save"])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_batch_gives_what_its_rows_give_alone(tiny: TinyBundle, vjp: str, threads: int):
    backbones = open_backbones(tiny("cnn", vjp), SessionFactory(ThreadPlan(onnx=threads), provider="cpu"))
    for name, raw in (("audio", torch.rand(5, 16_000)), ("frames", 255 * torch.rand(5, 3, 64, 64))):
        one = backbones[name]
        x = one.segment(0, one.stem(raw))
        whole = x.clone().requires_grad_()
        y = one.segment(1, whole)
        y.square().sum().backward()
        for row in range(5):
            alone = x[row : row + 1].clone().requires_grad_()
            z = one.segment(1, alone)
            z.square().sum().backward()
            assert torch.equal(z[0], y[row])
            assert torch.equal(alone.grad[0], whole.grad[row])


def attending(x: Tensor) -> Tensor:
    """A segment in which every token sees every other, as attention does."""
    return x + x.mean(dim=1, keepdim=True)


def test_no_sample_sees_the_padding_of_a_longer_one():
    parts = [torch.randn(1, length, 3) for length in (4, 7, 4, 2)]
    x = stacked(parts).flatten(0, 1).requires_grad_()
    one = ModalityInput(x, torch.ones(4, 1, dtype=torch.bool), lengths=(4, 7, 4, 2))
    y = apart(attending, x, one)
    for row, part in enumerate(parts):
        length = part.shape[1]
        torch.testing.assert_close(y[row, :length], attending(part)[0])
        assert not y[row, length:].any()
    y.square().sum().backward()
    assert not x.grad[3, 2:].any()
    assert x.grad[1].all()


def test_masked_views_are_not_run():
    seen = []
    mask = torch.tensor([[True, False], [True, True], [False, False]])
    x = torch.randn(6, 2, 3, 3)
    y = apart(lambda part: seen.append(len(part)) or 2 * part, x, ModalityInput(x, mask))
    assert seen == [3]
    assert torch.equal(y, torch.where(mask.flatten()[:, None, None, None], 2 * x, 0))


def test_a_batch_without_padding_is_run_as_it_is():
    x = torch.randn(2, 4, 3)
    one = ModalityInput(x, torch.ones(2, 1, dtype=torch.bool), lengths=(4, 4))
    assert apart(lambda part: part, x, one) is x
