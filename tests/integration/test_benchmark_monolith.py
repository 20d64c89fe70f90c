"""The bare peer of the benchmarks does the same work as the bundle it is made of."""

from __future__ import annotations

from pathlib import Path

import monolith
import numpy as np
import onnx
import pytest
import torch

from mmcl_edge.export.examples import raw_input
from mmcl_edge.runtime.segments import open_backbones
from mmcl_edge.runtime.sessions import SessionFactory
from mmcl_edge.runtime.threads import ThreadPlan
from tests.conftest import TinyBundle


@pytest.mark.parametrize("pair", ["cnn", "vit"])
def test_every_setting_and_format_computes_what_the_segments_compute(tmp_path: Path, tiny: TinyBundle, pair) -> None:
    bundle = tiny(pair)
    seed = torch.Generator().manual_seed(0)
    specs = bundle.manifest.inputs.items()
    inputs = {name: raw_input(spec, batch=1, duration_s=1.0, generator=seed).numpy() for name, spec in specs}
    expected = {}
    for name, backbone in open_backbones(bundle, SessionFactory(ThreadPlan(1), provider="cpu")).items():
        value = inputs[name]
        for graph in backbone.graphs(training=False):
            value = graph.session.run(["y"], {"x": value})[0]
        expected[name] = value
    for setting, call in monolith.contestants(bundle, tmp_path, inputs).items():
        found = call()
        assert found.keys() == expected.keys()
        for name, value in found.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-4, err_msg=setting)


def test_a_monolith_is_one_file_with_its_weights_and_leaves_the_bundle_alone(tmp_path: Path, tiny: TinyBundle) -> None:
    bundle = tiny()
    before = sorted(bundle.path.rglob("*"))
    files = monolith.write_monoliths(bundle, tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(files.values())
    assert sorted(bundle.path.rglob("*")) == before
    for path in files.values():
        model = onnx.load(path, load_external_data=False)
        assert not any(tensor.external_data for tensor in model.graph.initializer)
