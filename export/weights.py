"""The weights of a backbone in one file, each array once, whichever graphs use it.

A segment's forward, its product and the predict graph hold the same arrays. They all refer to one file, so that the
bundle is smaller, and ONNX Runtime maps the same pages of memory for every session.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
from onnx import TensorProto
from onnx.external_data_helper import set_external_data

from mmcl_edge.bundle import FileEntry

WEIGHTS_NAME = "weights.bin"
ALIGNMENT = 4096
"""Bytes: arrays begin on a page, as memory mapping wants it."""
SMALLEST = 1024
"""Bytes: what is smaller stays inside its graph."""


class WeightsFile:
    """``folder/<modality>/weights.bin`` while it grows: arrays are appended, never moved.

    Args:
        folder: the bundle being filled.
        modality: whose backbone.
    """

    def __init__(self, folder: Path, modality: str) -> None:
        self.path = f"{modality}/{WEIGHTS_NAME}"
        self._folder = folder
        self._file = folder / self.path
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_bytes(b"")
        self._offsets: dict[str, tuple[int, int]] = {}

    def take(self, model: onnx.ModelProto) -> None:
        """Move the large arrays of ``model``, in place, out of it; the graph will lie beside the weights."""
        for tensor in model.graph.initializer:
            if _size(tensor) >= SMALLEST:
                offset, length = self._put(tensor.raw_data)
                set_external_data(tensor, WEIGHTS_NAME, offset=offset, length=length)
                tensor.ClearField("raw_data")

    def entry(self) -> FileEntry:
        """The manifest's entry, once every graph is written."""
        return FileEntry.of(self._folder, self.path)

    def _put(self, data: bytes) -> tuple[int, int]:
        key = hashlib.sha256(data).hexdigest()
        if key not in self._offsets:
            with self._file.open("ab") as file:
                file.write(b"\0" * (-file.tell() % ALIGNMENT))
                self._offsets[key] = file.tell(), len(data)
                file.write(data)
        return self._offsets[key]


def _size(tensor: TensorProto) -> int:
    """Bytes of an array that is stored as bytes; 0 for one stored otherwise (a few numbers, or outside already)."""
    return len(tensor.raw_data) if tensor.HasField("raw_data") else 0
