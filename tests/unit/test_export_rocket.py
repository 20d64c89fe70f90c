"""Names, units and tokens of the random kernels for motion."""

from __future__ import annotations

import pytest
import torch

from mmcl_edge.errors import ExportError
from mmcl_edge.export.examples import movements
from mmcl_edge.export.rocket import DEPTH, KERNELS, SCALES, load_rocket, rocket
from mmcl_edge.export.sources import load_sources


@pytest.mark.parametrize("name", ["default", "rocket:lightyears", "minirocket", ""])
def test_other_names_are_refused_with_those_that_are_known(name: str):
    with pytest.raises(ExportError, match=r"rocket, rocket:g_dps, rocket:uestc_mmea or none, but"):
        load_sources(audio="none", frames="none", motion=name)


def test_no_backbone_at_all_is_refused():
    with pytest.raises(ExportError, match="--audio, --frames, --motion and --text are all 'none'"):
        load_sources(audio="none", frames="none", motion="none")


@pytest.mark.parametrize(("name", "scale"), [("rocket", "g_dps"), ("rocket:uestc_mmea", "uestc_mmea")])
def test_a_name_chooses_the_unit(name: str, scale: str):
    (source,) = load_sources(audio="none", frames="none", motion=name)
    assert (source.modality, source.depth, source.input.mean) == ("motion", DEPTH, SCALES[scale].mean)
    assert source.input.std == SCALES[scale].std


def test_the_stem_gives_a_token_each_tenth_of_a_second_whatever_the_unit():
    draw = torch.Generator().manual_seed(0)
    plain = load_rocket()
    x = movements(2, plain.input, draw)  # type: ignore[arg-type]
    tokens = plain.stem(x)
    assert tokens.shape == (2, 50, 8 * KERNELS)
    other = rocket(SCALES["uestc_mmea"])
    mean, std = (torch.tensor(getattr(other.input, name))[:, None] for name in ("mean", "std"))
    same = other.stem(mean + std * x / torch.tensor(plain.input.std)[:, None])
    torch.testing.assert_close(same, tokens, rtol=1e-3, atol=1e-4)


def test_features_stay_of_one_size_through_all_layers():
    source = load_rocket()
    x = source.stem(movements(3, source.input, torch.Generator().manual_seed(1)))  # type: ignore[arg-type]
    for _, layer in source.layers:
        x = layer(x)
        assert x.shape == (3, 50, 8 * KERNELS)
        assert 0.1 < float(x.std()) < 10
