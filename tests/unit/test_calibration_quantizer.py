"""One graph in int8: what is quantized, what is not, and that equal input gives equal bytes."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from mmcl_edge.calibration import quantizer as module
from mmcl_edge.calibration.graphs import forward_graphs, signal_to_noise_db
from mmcl_edge.calibration.quantizer import GraphQuantizer
from mmcl_edge.errors import CalibrationError

RNG = np.random.default_rng(0)


def _inputs(shape, count=8):
    return [RNG.normal(size=shape).astype(np.float32) for _ in range(count)]


def _run(model, inputs):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return [session.run(None, {"x": x})[0] for x in inputs]


def _snr(path, int8, inputs):
    return signal_to_noise_db(_run(str(path), inputs), _run(int8, inputs))


def _three_convolutions(folder, outlier=0.0):
    """1 x 1 convolutions with ReLU between; two weights of the middle one, of size ``outlier``, cancel each other."""
    weights = [RNG.normal(size=(16, 16, 1, 1)).astype(np.float32) / 4 for _ in range(3)]
    weights[0][1] = weights[0][0]  # equal channels, which the next one takes from each other
    weights[1][0, :2, 0, 0] += np.array([outlier, -outlier], np.float32)
    nodes, name = [], "x"
    for i in range(3):
        nodes.append(helper.make_node("Conv", [name, f"w{i}", f"b{i}"], [f"c{i}"], name=f"conv{i}"))
        nodes.append(helper.make_node("Relu", [f"c{i}"], ["y" if i == 2 else f"r{i}"], name=f"relu{i}"))
        name = f"r{i}"
    constants = [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)]
    constants += [numpy_helper.from_array(np.full(16, 0.1, np.float32), f"b{i}") for i in range(3)]
    return _save(folder, nodes, constants, ["batch", 16, 8, 8])


def _save(folder, nodes, constants, shape, opsets=()):
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "graph", value[:1], value[1:], constants)
    opset = [helper.make_opsetid("", 20), *opsets]
    path = Path(folder) / "graph.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


def _ops(data):
    return [node.op_type for node in onnx.load_from_string(data).graph.node]


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_convolutions_chain_in_int8(tmp_path, method):
    path, inputs = _three_convolutions(tmp_path), _inputs((2, 16, 8, 8))
    quantizer = GraphQuantizer(path, "frames/graph.onnx", inputs, method=method)
    int8 = quantizer.quantized()
    assert quantizer.nodes == ("Conv_0", "Conv_2", "Conv_4")
    assert "Relu" not in _ops(int8)
    kinds = {one.data_type for one in onnx.load_from_string(int8).graph.initializer if one.dims == [16, 16, 1, 1]}
    assert kinds == {TensorProto.INT8}
    assert 20 < _snr(path, int8, inputs) < 60


def test_one_scale_a_channel_is_better_where_channels_differ(tmp_path):
    path, inputs = _three_convolutions(tmp_path, 30.0), _inputs((2, 16, 8, 8))
    fine, coarse = (
        _snr(path, GraphQuantizer(path, "g.onnx", inputs, per_channel=wanted).quantized(), inputs)
        for wanted in (True, False)
    )
    assert fine > coarse + 2


def test_a_float_convolution_between_int8_ones_really_stays_float(tmp_path, monkeypatch):
    path, inputs = _three_convolutions(tmp_path, 30.0), _inputs((2, 16, 8, 8))
    quantizer = GraphQuantizer(path, "g.onnx", inputs)
    guarded = quantizer.quantized(["Conv_2"])
    weights = [one for one in onnx.load_from_string(guarded).graph.initializer if one.name.startswith("w1")]
    assert [one.data_type for one in weights] == [TensorProto.FLOAT]
    monkeypatch.setattr(module, "_guard", lambda model, nodes: None)
    assert _snr(path, guarded, inputs) > _snr(path, quantizer.quantized(["Conv_2"]), inputs) + 3


def test_the_front_end_stays_float_and_the_position_table_is_halved(tiny, monkeypatch):
    bundle = tiny()
    stem = forward_graphs(bundle.manifest)[0]
    sounds = [RNG.uniform(-0.5, 0.5, (1, length)).astype(np.float32) for length in (16_000, 32_000, 16_000)]
    path = bundle.file(stem.file)
    quantizer = GraphQuantizer(path, stem.path, sounds)
    assert len(quantizer.nodes) == 2  # Whisper's two convolutions, not the Fourier transform or the mel product
    int8 = quantizer.quantized()
    model = onnx.load_from_string(int8)
    until = next(i for i, node in enumerate(model.graph.node) if node.op_type == "Log")
    before = {node.op_type for node in model.graph.node[:until] if node.op_type in ("Conv", "MatMul")}
    assert before == {"Conv", "MatMul"}
    assert _snr(path, int8, sounds) > 20
    monkeypatch.setattr(module, "_TABLE_SIZE", 1 << 62)
    assert len(quantizer.quantized()) > len(int8)


def test_a_table_beyond_what_16_bits_hold_stays_whole(tmp_path):
    tables = [np.full((1, 16, 32, 32), value, np.float32) for value in (1.5, 1e6)]
    nodes = [helper.make_node("Add", [one, f"t{i}"], [other]) for i, (one, other) in enumerate(("xa", "ay"))]
    constants = [numpy_helper.from_array(table, f"t{i}") for i, table in enumerate(tables)]
    path = _save(tmp_path, nodes, constants, ["batch", 16, 32, 32])
    model = onnx.load(path)
    module._halve_tables(model)
    assert {one.name: one.data_type for one in model.graph.initializer} == {
        "t0_half": TensorProto.FLOAT16,
        "t1": TensorProto.FLOAT,
    }


def test_products_by_a_matrix_are_int8_and_products_of_activations_are_not(tiny):
    bundle = tiny()
    segment = forward_graphs(bundle.manifest)[1]
    inputs = [RNG.normal(size=(1, tokens, 32)).astype(np.float32) for tokens in (50, 100, 50)]
    quantizer = GraphQuantizer(bundle.file(segment.file), segment.path, inputs)
    assert len(quantizer.nodes) == 4  # attention's projections and the two of the feed-forward part
    model = onnx.load_from_string(quantizer.quantized())
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    readers = {name for node in model.graph.node if node.op_type == "QuantizeLinear" for name in node.input[:1]}
    assert len(products) == 6
    assert not {node.output[0] for node in products} & readers
    assert _snr(bundle.file(segment.file), model.SerializeToString(), inputs) > 25


SCRIPT = """
import hashlib, sys, numpy as np
from mmcl_edge.calibration.quantizer import GraphQuantizer
from pathlib import Path
rng = np.random.default_rng(1)
inputs = [rng.normal(size=(2, 16, 8, 8)).astype(np.float32) for _ in range(4)]
print(hashlib.sha256(GraphQuantizer(Path(sys.argv[1]), "g.onnx", inputs).quantized(["Conv_2"])).hexdigest())
"""


def test_equal_input_gives_equal_bytes_in_every_process(tmp_path):
    path = _three_convolutions(tmp_path)
    found = set()
    for seed in ("0", "1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(path)], env=environment, capture_output=True, text=True, check=True
        )
        found.add(done.stdout.strip())
    assert len(found) == 1
    assert len(found.pop()) == hashlib.sha256().digest_size * 2


def test_an_unknown_operator_is_refused_by_name_of_the_graph(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Swirl", ["c"], ["y"], domain="elsewhere"),
    ]
    weight = numpy_helper.from_array(np.ones((16, 16, 1, 1), np.float32), "w")
    path = _save(tmp_path, nodes, [weight], ["batch", 16, 8, 8], [helper.make_opsetid("elsewhere", 1)])
    with pytest.raises(CalibrationError, match=r"frames/segment_07.onnx .* operator"):
        GraphQuantizer(path, "frames/segment_07.onnx", _inputs((1, 16, 8, 8))).quantized()
