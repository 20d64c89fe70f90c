"""Weights are stored once: equal arrays, turned ones, and what a graph computes afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from mmcl_edge.export.onnx_graph import write_model
from mmcl_edge.export.weights import ALIGNMENT, SMALLEST, WeightsFile

MATRIX = np.random.default_rng(0).normal(size=(24, 40)).astype(np.float32)


def product(matrix: np.ndarray, *, turned: tuple[bool, ...]) -> onnx.ModelProto:
    """``y_i = x_i @ matrix``, or ``x_i @ matrix^T`` where turned; the matrix is one initializer."""
    nodes, inputs, outputs = [], [], []
    for number, turn in enumerate(turned):
        rows, columns = matrix.shape[::-1] if turn else matrix.shape
        if turn:
            nodes.append(helper.make_node("Transpose", ["w"], [f"t{number}"], perm=[1, 0]))
        nodes.append(helper.make_node("MatMul", [f"x{number}", f"t{number}" if turn else "w"], [f"y{number}"]))
        inputs.append(helper.make_tensor_value_info(f"x{number}", TensorProto.FLOAT, ["n", rows]))
        outputs.append(helper.make_tensor_value_info(f"y{number}", TensorProto.FLOAT, ["n", columns]))
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(matrix, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def answers(path: Path) -> list[np.ndarray]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(1)
    feed = {one.name: rng.normal(size=(3, one.shape[1])).astype(np.float32) for one in session.get_inputs()}
    return session.run(None, feed)


@pytest.mark.parametrize("turned", [(False,), (True,), (False, True), (True, True, False)])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_graph_computes_the_same_and_its_matrix_is_stored_once(
    tmp_path: Path, turned: tuple[bool, ...], transposed: bool
):
    weights = WeightsFile(tmp_path, "audio")
    first = product(MATRIX, turned=(False,))
    weights.take(first)
    write_model(first, folder=tmp_path, path="audio/first.onnx")
    size = weights.entry().size_bytes
    second = product(np.ascontiguousarray(MATRIX.T) if transposed else MATRIX, turned=turned)
    plain = tmp_path / "plain.onnx"
    onnx.save(second, plain)
    weights.take(second)
    write_model(second, folder=tmp_path, path="audio/second.onnx")
    assert weights.entry().size_bytes == size
    for one, other in zip(answers(plain), answers(tmp_path / "audio/second.onnx"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_small_arrays_stay_and_large_ones_begin_on_a_page(tmp_path: Path):
    weights = WeightsFile(tmp_path, "frames")
    small = np.zeros(SMALLEST // 4 - 1, dtype=np.float32)
    large = [np.full(SMALLEST // 4, value, dtype=np.float32) for value in (1, 2, 1)]
    arrays = [numpy_helper.from_array(array, f"a{number}") for number, array in enumerate([small, *large])]
    model = helper.make_model(helper.make_graph([], "g", [], [], arrays))
    weights.take(model)
    places = [{e.key: e.value for e in one.external_data} for one in model.graph.initializer]
    assert places[0] == {}
    assert [int(place["offset"]) for place in places[1:]] == [0, ALIGNMENT, 0]
    assert {place["location"] for place in places[1:]} == {"weights.bin"}
    assert weights.entry().size_bytes == ALIGNMENT + SMALLEST


def test_a_bundle_stores_each_array_once(tiny):  # type: ignore[no-untyped-def]
    bundle = tiny("cnn")
    entry = bundle.manifest.backbone("audio")
    stored: dict[tuple[str, str], int] = {}
    for file in entry.files():
        if file == entry.weights:
            continue
        for tensor in onnx.load(bundle.file(file), load_external_data=False).graph.initializer:
            place = {e.key: e.value for e in tensor.external_data}
            if place:
                stored[place["offset"], place["length"]] = int(place["length"])
    kept = bundle.file(entry.weights).read_bytes()
    pieces = [kept[int(offset) : int(offset) + size] for (offset, _), size in stored.items()]
    assert len(set(pieces)) == len(pieces)
    forward = onnx.load(bundle.file(entry.segments[0].forward), load_external_data=False)
    product_graph = onnx.load(bundle.file(entry.segments[0].vjp), load_external_data=False)
    taken = [
        {e.value for one in m.graph.initializer for e in one.external_data if e.key == "offset"}
        for m in (forward, product_graph)
    ]
    assert taken[1] <= taken[0], "a product of a transformer segment brings no large array of its own"
