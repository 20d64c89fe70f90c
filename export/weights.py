"""The weights of a backbone in one file, each array once, whichever graphs use it.

A segment's forward, its product and the predict graph hold the same arrays. They all refer to one file, so that the
bundle is smaller, and ONNX Runtime maps the same pages of memory for every session. A product needs a matrix as it
stands and turned; it takes the one that the forward graph stored, and turns it where it uses it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from mmcl_edge.bundle import FileEntry

WEIGHTS_NAME = "weights.bin"
ALIGNMENT = 4096
"""Bytes: arrays begin on a page, as memory mapping wants it."""
SMALLEST = 1024
"""Bytes: what is smaller stays inside its graph."""
_TURN = [1, 0]


class WeightsFile:
    """``folder/<modality>/weights.bin`` while it grows: arrays are appended, never moved.

    Args:
        folder: the bundle being filled.
        modality: whose backbone.
        grow: go on with a file that is there, whose arrays stay where they are.
    """

    def __init__(self, folder: Path, modality: str, *, grow: bool = False) -> None:
        self.path = f"{modality}/{WEIGHTS_NAME}"
        self._folder = folder
        self._file = folder / self.path
        self._file.parent.mkdir(parents=True, exist_ok=True)
        if not grow:
            self._file.write_bytes(b"")
        self._offsets: dict[tuple[str, tuple[int, ...]], int] = {}

    def take(self, model: onnx.ModelProto) -> None:
        """Move the large arrays of ``model``, in place, out of it; the graph will lie beside the weights."""
        for tensor in model.graph.initializer:
            if _size(tensor) < SMALLEST:
                continue
            array = numpy_helper.to_array(tensor)
            if array.ndim == 2 and _key(array) not in self._offsets and _key(array.T) in self._offsets:
                _turn(model.graph, tensor)
                array = array.T
            data = array.tobytes()
            set_external_data(tensor, WEIGHTS_NAME, offset=self._place(array, data), length=len(data))
            tensor.ClearField("raw_data")

    def entry(self) -> FileEntry:
        """The manifest's entry, once every graph is written."""
        return FileEntry.of(self._folder, self.path)

    def _place(self, array: np.ndarray, data: bytes) -> int:
        key = _key(array)
        if key not in self._offsets:
            with self._file.open("ab") as file:
                file.write(b"\0" * (-file.tell() % ALIGNMENT))
                self._offsets[key] = file.tell()
                file.write(data)
        return self._offsets[key]


def _key(array: np.ndarray) -> tuple[str, tuple[int, ...]]:
    return hashlib.sha256(array.tobytes()).hexdigest(), array.shape


def _size(tensor: TensorProto) -> int:
    """Bytes of an array that is stored as bytes; 0 for one stored otherwise (a few numbers, or outside already)."""
    return len(tensor.raw_data) if tensor.HasField("raw_data") else 0


def _turn(graph: onnx.GraphProto, tensor: TensorProto) -> None:
    """Rename ``tensor`` to its transpose, in place: who turned it takes it as it is, a node turns it for the others."""
    name, turned = tensor.name, f"{tensor.name}_turned"
    undone = {node.output[0] for node in graph.node if _turns(node, name)}
    kept = [node for node in graph.node if not _turns(node, name)]
    for node in kept:
        node.input[:] = [turned if one in undone else one for one in node.input]
    if any(name in node.input for node in kept):
        kept.insert(0, helper.make_node("Transpose", [turned], [name], name=f"{turned}_back", perm=_TURN))
    del graph.node[:]
    graph.node.extend(kept)
    tensor.name = turned
    tensor.dims[:] = list(tensor.dims)[::-1]


def _turns(node: onnx.NodeProto, name: str) -> bool:
    """Whether the node does nothing but transpose the matrix ``name``."""
    perms = [list(one.ints) for one in node.attribute if one.name == "perm"]
    return node.op_type == "Transpose" and list(node.input) == [name] and (not perms or perms[0] == _TURN)
