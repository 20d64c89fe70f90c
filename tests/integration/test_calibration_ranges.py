"""Int8 versions of tiny bundles: what changes, what does not, and that packs and learning go on."""

import json

import numpy as np
import onnx
import pytest
import torch

from mmcl_edge.adapters.inputs import collate
from mmcl_edge.bundle import Bundle
from mmcl_edge.calibration.ranges import quantize_bundle
from mmcl_edge.calibration.samples import divide
from mmcl_edge.calibration.settings import RangesConfig
from mmcl_edge.config import AdapterConfig, MethodConfig
from mmcl_edge.errors import CalibrationError, StorageError
from mmcl_edge.learners.persistence import model_from_pack
from mmcl_edge.packs import read_pack
from mmcl_edge.runtime.engine import Runtime
from tests.builders import on_full_disk, snapshot
from tests.calibrating import live_samples
from tests.predicting import make_pack

CONFIG = RangesConfig(any_speed=True, keep_accuracy=1.0)


def _int8(bundle, out, *, config=CONFIG, labelled=True, pack=None):
    data = divide(live_samples(20), bundle.manifest, config, labelled=labelled)
    return quantize_bundle(bundle, data, out, config=config, pack=pack, threads=1)


def _without_predict_graphs(bundle):
    return Bundle(bundle.path, bundle.manifest.model_copy(update={"predict": ()}), digest=bundle.digest)


@pytest.fixture(scope="module")
def plain(tiny):
    """The tiny bundle, without predict graphs, which take long to compose."""
    return _without_predict_graphs(tiny())


@pytest.fixture(scope="module")
def made(plain, tmp_path_factory):
    """Its int8 version, made without a pack."""
    return _int8(plain, tmp_path_factory.mktemp("made") / "int8")


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """The int8 version with predict graphs."""
    return _int8(tiny(), tmp_path_factory.mktemp("whole") / "int8").bundle


def test_forward_graphs_become_int8_and_everything_else_keeps_its_bytes(plain, made):
    int8 = made.bundle
    assert int8.family == int8.manifest.quantized_from == plain.digest != int8.digest
    quantized = {one.graph for one in made.record.graphs if one.int8}
    assert {"audio/stem.onnx", "audio/segment_00.onnx", "frames/segment_01.onnx"} <= quantized
    assert "audio/output.onnx" not in quantized  # a norm
    assert all(one.reason for one in made.record.graphs if not one.int8)
    before, after = ({f.path: f.sha256 for b in x.manifest.backbones for f in b.files()} for x in (plain, int8))
    assert before.keys() == after.keys()
    weights = {b.weights.path for b in plain.manifest.backbones}
    assert {path for path in before if before[path] != after[path]} == quantized | weights
    for path in weights:  # what float graphs refer to is where it was
        assert (int8.path / path).read_bytes().startswith((plain.path / path).read_bytes())
    for path in quantized:
        operators = {node.op_type for node in onnx.load(int8.path / path).graph.node}
        assert {"QuantizeLinear", "DequantizeLinear"} <= operators


def test_the_manifest_says_what_was_done(plain, made):
    manifest = json.loads((made.bundle.path / "bundle.json").read_bytes())
    assert manifest["ranges"]["method"] == "minmax"
    assert manifest["ranges"]["samples"] == 10
    assert [one["graph"] for one in manifest["ranges"]["graphs"]] == [one.graph for one in made.record.graphs]
    assert all(one.snr_db > 10 for one in made.record.graphs if one.int8)
    float_errors, errors = (
        {s.forward.path: s.parity.forward for b in x.manifest.backbones for s in (*b.segments, b.output)}
        for x in (plain, made.bundle)
    )
    for one in made.record.graphs:
        if one.graph in errors:
            expected = 10 ** (-one.snr_db / 20) if one.int8 else float_errors[one.graph]
            assert expected <= errors[one.graph] <= 2.6 * expected


def test_equal_input_gives_an_equal_digest(plain, made, tmp_path):
    assert _int8(plain, tmp_path / "again").bundle.digest == made.bundle.digest


@pytest.mark.parametrize("placement", ["inline", "ladder"])
def test_a_pack_serves_both_bundles_whichever_it_was_made_for(plain, made, tmp_path, placement):
    pack, other = (make_pack(tmp_path, plain, placement=placement, seed=seed) for seed in (0, 9))
    answers = []
    for bundle, used in ((plain, pack), (made.bundle, pack), (plain, other)):
        with Runtime.open(bundle, used, "cpu", 1) as runtime:
            answers.append([list(a.probabilities.values()) for a in runtime.predict_batch(live_samples(6))])
    same, different = (float(np.abs(np.subtract(answers[0], one)).mean()) for one in answers[1:])
    assert 0 < same < different / 2
    of_int8 = read_pack(make_pack(tmp_path, made.bundle, placement=placement))
    assert of_int8.manifest.bundle_digest == plain.digest


@pytest.mark.parametrize("placement", ["inline", "ladder"])
def test_predict_graphs_are_composed_of_int8_graphs(tiny, whole, tmp_path, placement):
    method = MethodConfig(adapter=AdapterConfig(placement=placement))
    pack = make_pack(tmp_path, tiny(), method=method)
    assert [(one.modalities, one.adapter) for one in whole.manifest.predict] == [
        (one.modalities, one.adapter) for one in tiny().manifest.predict
    ]
    answers = []
    for bundle in (whole, _without_predict_graphs(whole), tiny()):
        with Runtime.open(bundle, pack, "cpu", 1) as runtime:
            found = [runtime.predict(one.audio, one.frames) for one in live_samples(6)]
            answers.append([list(one.probabilities.values()) for one in found])
    one_graph, segments, in_float = map(np.array, answers)
    assert np.abs(one_graph - segments).max() <= np.abs(segments - in_float).max() / 5
    assert np.abs(segments - in_float).max() > 0


def test_accuracy_is_the_packs_and_without_labels_agreement_with_float(plain, tmp_path):
    pack = read_pack(make_pack(tmp_path, plain, placement="ladder"))
    report = _int8(plain, tmp_path / "int8", pack=pack)
    assert report.trial.judge.kind == "pack"
    assert report.trial.kind == "float answers"  # the pack knows ant, bee and cow, the data low and high
    assert report.trial.float_accuracy == 1.0
    assert report.steps[-1].accuracy == report.steps[-1].agreement


def test_without_a_pack_the_nearest_class_mean_answers(made):
    assert made.trial.judge.kind == "nearest class mean"
    assert made.trial.kind == "labels"
    assert made.trial.float_accuracy > 0.8  # a low tone in the dark, a high one in the light
    assert made.steps[-1].accuracy > 0.8


def test_sensitive_nodes_are_found_by_measurement_and_left_in_float(plain, tmp_path, monkeypatch):
    """Accuracy is made to depend on the graphs of the frames backbone alone: nothing else may be blamed in vain."""
    from mmcl_edge.calibration import ranges

    asked = []

    def search(plans, measure, **options):
        def strict():
            measured = measure()
            asked.append(sum(len(plan.nodes) for plan in plans))
            return (measured[0] - 0.1 if len(asked) < 3 else measured[0], measured[1])

        return original(plans, strict, **options)

    original = ranges.search
    monkeypatch.setattr(ranges, "search", search)
    report = _int8(plain, tmp_path / "int8", config=CONFIG.model_copy(update={"keep_accuracy": 0.05}))
    assert [step.float_nodes for step in report.steps] == [0, 1, 2]
    assert asked == [asked[0], asked[0] - 1, asked[0] - 2]
    left = [(one.graph, node) for one in report.record.graphs for node in one.float_nodes]
    assert len(left) == 2
    base = {one.graph: one.snr_db for one in _int8(plain, tmp_path / "all").record.graphs}
    assert all(one.snr_db > base[one.graph] for one in report.record.graphs if one.float_nodes)


@pytest.mark.parametrize("vjp", ["recompute", "save"])
def test_gradients_go_on_through_an_int8_forward(tiny, tmp_path, vjp):
    """The straight-through estimate: float products at int8 features, close to the gradients of the float bundle."""
    plain = _without_predict_graphs(tiny(vjp=vjp))
    int8 = _int8(plain, tmp_path / "int8").bundle
    pack = read_pack(make_pack(tmp_path, plain))
    gradients = []
    for bundle in (plain, int8):
        with Runtime.open(bundle, provider="cpu", threads=1) as runtime:
            model = model_from_pack(pack, runtime.backbones)
            inputs = collate([runtime.preprocess(one) for one in live_samples(4)])
            model(inputs).logits.square().sum().backward()
            gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    cosine = torch.nn.functional.cosine_similarity(*gradients, dim=0)
    assert 0.9 < cosine <= 1
    assert not torch.equal(*gradients)


def test_what_is_int8_already_is_refused(made, tmp_path):
    with pytest.raises(CalibrationError, match="int8 already"):
        _int8(made.bundle, tmp_path / "twice")
    assert not (tmp_path / "twice").exists()


def test_a_bound_that_cannot_hold_leaves_nothing(plain, tmp_path, monkeypatch):
    from mmcl_edge.calibration.judges import Trial

    monkeypatch.setattr(Trial, "accuracy", lambda self, backbones: (0.0, 0.0))
    with pytest.raises(CalibrationError, match="nothing was written"):
        _int8(plain, tmp_path / "int8", config=RangesConfig(any_speed=True))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(plain, made, tmp_path):
    from mmcl_edge.calibration.graphs import Overlay
    from mmcl_edge.calibration.writing import write_int8_bundle

    laid = tmp_path / "laid"
    graphs = [one.graph for one in made.record.graphs if one.int8]
    for path in graphs:
        (laid / path).parent.mkdir(parents=True, exist_ok=True)
        onnx.save(onnx.load(made.bundle.path / path), laid / path)
    overlay = Overlay(plain, laid, graphs)
    before = snapshot(tmp_path)
    runs = 0
    for refused in on_full_disk(lambda: write_int8_bundle(plain, overlay, made.record, tmp_path / "int8")):
        runs += 1
        if refused:
            assert isinstance(refused, StorageError)
            assert (snapshot(tmp_path) == before) or Bundle.open(tmp_path / "int8")
            if (tmp_path / "int8").exists():
                return
    assert runs > 3
    assert Bundle.open(tmp_path / "int8").family == plain.digest
