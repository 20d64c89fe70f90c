"""One hostile shared space among honest ones: it is refused, or does little harm, and never breaks what comes out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mmcl_edge.fleet.merge.spaces import merge_spaces
from mmcl_edge.fleet.merge.spaces_held import HeldSpace
from mmcl_edge.packs.tensors import MAX_WEIGHT
from tests.crossmodal import THINGS, samples
from tests.spaces import EVERY, changed, embedded, held, stored

BASE = held("0", ("image", EVERY))
SHARES = [tuple(THINGS[number::4]) for number in range(4)]
HONEST = [held(name, ("image", EVERY), ("speech", share)) for name, share in zip("abcd", SHARES, strict=True)]
VICTIM = held("e", ("image", EVERY), ("speech", EVERY))


def of(prefix: str, change: Callable[[Tensor], Tensor]) -> HeldSpace:
    """A space some of whose tensors are not what it learned."""
    return changed(VICTIM, lambda name, value: change(value) if name.startswith(prefix) else value)


def huge(value: Tensor) -> Tensor:
    return torch.full_like(value, MAX_WEIGHT)


HOSTILE: dict[str, Callable[[], HeldSpace]] = {
    "a huge projection": lambda: of("branches.speech.project.", huge),
    "a projection of nothing": lambda: of("branches.speech.project.", torch.zeros_like),
    "a front of nothing": lambda: of("branches.speech.basis", torch.zeros_like),
    "a tiny front": lambda: of("branches.speech.basis", lambda value: 1e-30 * value),
    "a huge front": lambda: of("branches.speech.basis", huge),
    "huge usage": lambda: of("codebook.counts", huge),
    "no usage": lambda: of("codebook.counts", torch.zeros_like),
    "codes of nothing": lambda: of("codebook.codes", torch.zeros_like),
    "huge codes": lambda: of("codebook.codes", lambda value: MAX_WEIGHT * value.sign()),
    "huge Gaussians": lambda: of("memory.", huge),
    "no Gaussians": lambda: of("memory.", torch.zeros_like),
    "claims": lambda: changed(VICTIM, lambda name, value: value, pairs={"image": 1 << 53, "speech": 1 << 53}),
    "huge experts": lambda: of("cmoe.frozen_up", huge),
}


@pytest.mark.parametrize("method", ["mean", "median", "krum"])
@pytest.mark.parametrize("name", HOSTILE)
def test_what_comes_out_is_a_space_that_keeps_the_release(name, method):
    found = merge_spaces([*HONEST, HOSTILE[name]()], base=BASE, method=method).stored
    for value in found.tensors.values():
        assert torch.isfinite(value).all()
    for part in ("image", "text"):
        for tensor in ("mean", "basis", "project.weight", "project.bias"):
            at = f"branches.{part}.{tensor}"
            assert torch.equal(found.tensors[at], BASE.stored.tensors[at]), at
    vectors = embedded(found, "speech", samples("speech"))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))


POINTLESS = ("a huge projection", "a projection of nothing", "a front of nothing", "a tiny front", "a huge front")


@pytest.mark.parametrize("name", POINTLESS)
def test_the_median_answers_as_honest_devices_do(name):
    asked = samples("speech")
    alone = merge_spaces(HONEST, base=BASE, method="median").stored
    found = merge_spaces([*HONEST, HOSTILE[name]()], base=BASE, method="median").stored
    before, after = (embedded(one, "speech", asked) for one in (alone, found))
    assert float(functional.cosine_similarity(before, after).mean()) > 0.9


def grasping(name: str, value: Tensor) -> Tensor:
    """Experts that are chosen for everything, and say anything."""
    if name in ("cmoe.frozen_route", "cmoe.frozen_up"):
        return 1000 * torch.randn(value.shape, generator=torch.Generator().manual_seed(len(name)))
    return value


@pytest.mark.parametrize("base", [BASE, None])
@pytest.mark.parametrize("method", ["median", "krum"])
def test_experts_that_serve_everything_are_left_out_by_robust_methods(method, base):
    hostile = changed(VICTIM, grasping)
    merged = merge_spaces([*HONEST, hostile], base=base, method=method)
    for part in ("image", "text"):
        asked = samples("image")
        before, after = (embedded(one, part, asked) for one in (BASE.stored, merged.stored))
        assert float(functional.cosine_similarity(before, after).min()) > 0.99, part
    assert [note for note in merged.notes if note.startswith("The experts of e... move") and "were left out" in note]
    assert merged.figures.experts == merge_spaces(HONEST, base=base, method=method).figures.experts


def test_the_mean_names_experts_that_serve_everything():
    notes = merge_spaces([*HONEST, changed(VICTIM, grasping)], base=BASE).notes
    assert [note for note in notes if note.startswith("The experts of e... move") and "'krum' leave them out" in note]
    every = [*HONEST, VICTIM]
    for base in (BASE, None):
        assert not [note for note in merge_spaces(every, base=base, method="median").notes if "experts" in note]


def test_where_all_meddle_the_experts_of_the_release_are_kept():
    every = [changed(one, grasping) for one in HONEST]
    found = merge_spaces(every, base=BASE, method="median").stored
    assert found.facts.experts_frozen == BASE.stored.facts.experts_frozen
    assert merge_spaces(every, method="median").stored.facts.experts_frozen >= BASE.stored.facts.experts_frozen


def test_a_hostile_base_of_other_codes_breaks_nothing():
    other = HeldSpace("0", 0.0, stored(("sound", EVERY), seed=5))
    found = merge_spaces(HONEST, base=other).stored
    assert set(found.facts.modalities) == {"text", "image", "speech"}
