"""The predict graph: one graph answers as segments and torch do, for any pack of its settings, from any thread."""

from __future__ import annotations

import gc
import re
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnx
import pytest

from mmcl_edge.bundle import Bundle
from mmcl_edge.config import AdapterConfig, HeadConfig, MethodConfig
from mmcl_edge.errors import BundleError
from mmcl_edge.export.predict_graph import subsets
from mmcl_edge.export.weights import SMALLEST
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.types import Prediction
from tests.conftest import TinyBundle
from tests.predicting import make_pack, picture, samples, sound

LABELS = tuple(f"class {number}" for number in range(7))


def served(placement: str, *, experts: int = 5) -> MethodConfig:
    """Settings of ``mmcl-edge adapt`` with another number of experts than the graph was traced with."""
    return MethodConfig(adapter=AdapterConfig(placement=placement, experts=experts))


def without_predict_graphs(bundle: Bundle) -> Bundle:
    return Bundle(bundle.path, bundle.manifest.model_copy(update={"predict": ()}), digest=bundle.digest)


def opened(bundle: Bundle, folder: Path, method: MethodConfig, *, seed: int = 0) -> Runtime:
    return Runtime.open(bundle, make_pack(folder, bundle, method=method, labels=LABELS, seed=seed), "cpu", 1)


def sessions_made(runtime: Runtime) -> int:
    graphs = [graph for backbone in runtime.backbones.values() for graph in backbone.graphs(training=False)]
    return sum(graph._session is not None for graph in graphs)


def refuse(*arguments: object, **options: object) -> None:
    raise BundleError("the graph is broken")


def check_equal(one: Prediction, other: Prediction) -> None:
    assert one.label == other.label
    assert dict(one.probabilities) == pytest.approx(dict(other.probabilities), abs=1e-5)
    assert dict(one.expert_load) == pytest.approx(dict(other.expert_load), abs=1e-5)


@pytest.mark.parametrize("placement", ["inline", "ladder"])
@pytest.mark.parametrize("pair", ["cnn", "vit"])
def test_one_graph_answers_as_the_segments_do(tiny: TinyBundle, tmp_path: Path, pair: str, placement: str):
    bundle = tiny(pair)
    whole = opened(bundle, tmp_path, served(placement))
    parts = opened(without_predict_graphs(bundle), tmp_path, served(placement))
    for sample in samples():
        check_equal(whole.predict(sample.audio, sample.frames), parts.predict(sample.audio, sample.frames))
    assert sessions_made(whole) == 0
    assert sessions_made(parts) > 0


def test_another_pack_takes_over_at_once(tiny: TinyBundle, tmp_path: Path):
    packs = [make_pack(tmp_path, tiny(), method=served("inline"), labels=LABELS, seed=seed) for seed in (0, 7)]
    runtime = Runtime.open(tiny(), packs[0], "cpu", 1)
    first = runtime.predict(sound(), picture())
    kept = dict(first.probabilities)
    runtime.load_pack(packs[1])
    other = runtime.predict(sound(), picture())
    assert dict(other.probabilities) != pytest.approx(kept, abs=1e-3)
    assert dict(first.probabilities) == kept, "an answer must not change afterwards"


def test_threads_do_not_disturb_each_other(tiny: TinyBundle, tmp_path: Path):
    runtime = opened(tiny(), tmp_path, served("inline"))
    alone = [runtime.predict(one.audio, one.frames) for one in samples()]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda one: runtime.predict(one.audio, one.frames), samples() * 5))
    for number, answer in enumerate(together):
        check_equal(answer, alone[number % len(alone)])


def test_a_provider_that_falls_back_answers_on_the_host(tiny: TinyBundle, tmp_path: Path):
    pack = make_pack(tmp_path, tiny(), method=served("inline"), labels=LABELS)
    fallen = Runtime.open(tiny(), pack, "cuda", 1, allow_fallback=True)
    check_equal(fallen.predict(sound(), picture()), Runtime.open(tiny(), pack, "cpu", 1).predict(sound(), picture()))


def test_closing_lets_go_of_every_session(tiny: TinyBundle, tmp_path: Path):
    runtime = opened(tiny(), tmp_path, served("inline"))
    runtime.predict(sound(), picture())
    fullest = runtime._current().classes.bound.fullest
    assert fullest is not None
    session = weakref.ref(fullest.session)
    del fullest
    runtime.close()
    gc.collect()
    assert session() is None


def test_a_graph_that_cannot_be_loaded_leaves_the_pack_in_use(
    tiny: TinyBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    packs = [make_pack(tmp_path, tiny(), method=served(one), labels=LABELS) for one in ("inline", "ladder")]
    runtime = Runtime.open(tiny(), packs[0], "cpu", 1)
    monkeypatch.setattr(runtime.sessions, "create", refuse)
    with pytest.raises(BundleError, match="broken"):
        runtime.load_pack(packs[1])
    assert runtime.predict(sound(), picture()).pack_digest == packs[0].name


def test_a_pack_of_other_settings_is_answered_by_the_segments(tiny: TinyBundle, tmp_path: Path):
    runtime = Runtime.open(tiny(), make_pack(tmp_path, tiny()), "cpu", 1)
    assert sessions_made(runtime) > 0
    assert runtime.predict(sound(), picture()).label


@pytest.mark.parametrize(
    ("change", "serves"),
    [
        ({}, True),
        ({"experts": 31, "router_noise": 0.0, "freeze_experts": False}, True),
        ({"rank": 4}, False),
        ({"active_experts": 1}, False),
        ({"attention": "none"}, False),
        ({"scale": 0.2}, False),
        ({"features": "last"}, False),
        ({"input_norm": False}, False),
    ],
)
def test_settings_that_shape_the_computation_must_be_equal(tiny: TinyBundle, change: dict[str, object], serves: bool):
    graph = tiny().manifest.predict[0]
    assert graph.serves(graph.adapter.model_copy(update=change), MethodConfig().head) is serves
    assert not graph.serves(graph.adapter, HeadConfig(joint_dim=8))
    assert graph.serves(graph.adapter, HeadConfig(modality_dropout=0.5, cosine_scale=2.0, voters="all"))
    assert not graph.serves(graph.adapter, HeadConfig()), "a pack from before modalities voted"


def test_every_set_of_modalities_has_its_graph(tiny: TinyBundle):
    names = tiny().manifest.modalities
    assert subsets(names) == [("audio", "frames"), ("audio",), ("frames",)]
    found = [(graph.adapter.placement, graph.modalities) for graph in tiny().manifest.predict]
    assert found == [(placement, chosen) for placement in ("inline", "ladder") for chosen in subsets(names)]


def test_many_modalities_have_the_sets_that_are_usual_alone():
    assert len(subsets("abc")) == 7
    assert ["".join(one) for one in subsets("abcd")] == ["abcd", "abc", "abd", "acd", "bcd", "a", "b", "c", "d"]


def test_the_file_holds_no_weights_of_its_own(tiny: TinyBundle):
    bundle = tiny()
    for graph in bundle.manifest.predict:
        data = bundle.file(graph.file).read_bytes()
        assert not re.search(rb"site-packages|\.py|/home|pkg\.torch|namespace", data)
        model = onnx.load_from_string(data)
        assert {node.domain for node in model.graph.node} == {""}
        places = {e.value for one in model.graph.initializer for e in one.external_data if e.key == "location"}
        assert places <= {f"{name}/weights.bin" for name in graph.modalities}
        floats = [one for one in model.graph.initializer if one.data_type == onnx.TensorProto.FLOAT]
        assert max(len(one.raw_data) for one in floats) <= SMALLEST, "weights belong into the backbone's file"
