"""The reader of CTranslate2 files: genuine files, and every way to be broken."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from mmcl_edge.bundle import WeightsOrigin
from mmcl_edge.errors import ExportError
from mmcl_edge.export.ctranslate2 import read_weights
from mmcl_edge.export.whisper import whisper_encoder

ORIGIN = WeightsOrigin(source="test", licence="none", trained=False)


def text(value: bytes) -> bytes:
    return struct.pack("<H", len(value) + 1) + value + b"\0"


def variable(name: bytes, array: np.ndarray, *, code: int = 0, size_bytes: int | None = None) -> bytes:
    sizes = struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
    data = array.tobytes()
    return text(name) + sizes + struct.pack("<BI", code, len(data) if size_bytes is None else size_bytes) + data


def model(*variables: bytes, version: int = 6, spec: bytes = b"WhisperSpec", count: int | None = None) -> bytes:
    head = struct.pack("<I", version) + text(spec) + struct.pack("<I", 3)
    return head + struct.pack("<I", len(variables) if count is None else count) + b"".join(variables)


ONE = np.arange(6, dtype="<f4").reshape(2, 3)
HALF = np.array([1.5, -2.0], dtype="<f2")


def write(folder: Path, data: bytes) -> Path:
    path = folder / "model.bin"
    path.write_bytes(data)
    return path


def test_variables_under_the_prefix_are_read(tmp_path: Path) -> None:
    path = write(
        tmp_path, model(variable(b"decoder/w", ONE), variable(b"encoder/w", ONE), variable(b"encoder/h", HALF, code=4))
    )
    found = read_weights(path, spec="WhisperSpec", prefix="encoder/")
    assert sorted(found) == ["h", "w"]
    np.testing.assert_array_equal(found["w"], ONE)
    np.testing.assert_array_equal(found["h"], HALF)


GOOD = model(variable(b"encoder/w", ONE))
BROKEN = {
    "empty": (b"", "too early"),
    "other version": (model(version=5), "format is 5"),
    "other model": (model(spec=b"TransformerSpec"), "TransformerSpec"),
    "not a model at all": (b"PK\x03\x04" + bytes(40), "its format is"),
    "count without variables": (model(count=1), "too early"),
    "absurd count": (model(count=2**31), "declares"),
    "absurd rank": (model(text(b"encoder/w") + b"\xff"), "rank 255"),
    "unknown type": (model(variable(b"encoder/w", ONE, code=77)), "type id 77"),
    "bytes that do not fit the shape": (model(variable(b"encoder/w", ONE, size_bytes=23)), "has 23 bytes"),
    "shape larger than the file": (
        model(text(b"encoder/w") + struct.pack("<BIIBI", 2, 2**15, 2**14, 0, 2**31) + bytes(8)),
        "too early",
    ),
    "empty name": (model(struct.pack("<H", 0) + bytes(30)), "name of 0 bytes"),
    "endless name": (model(struct.pack("<H", 60_000) + bytes(70_000)), "name of 60000 bytes"),
    "name that is not text": (model(variable(b"\xff\xfe", ONE)), "not UTF-8"),
    "same name twice": (model(variable(b"encoder/w", ONE), variable(b"encoder/w", ONE)), "comes twice"),
}


@pytest.mark.parametrize("data, reason", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_refused_in_a_sentence(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(ExportError, match=reason):
        read_weights(write(tmp_path, data), spec="WhisperSpec", prefix="encoder/")


@pytest.mark.parametrize("length", range(len(GOOD)))
def test_every_truncation_is_refused(tmp_path: Path, length: int) -> None:
    with pytest.raises(ExportError):
        read_weights(write(tmp_path, GOOD[:length]), spec="WhisperSpec")


def test_an_encoder_without_its_tensors_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, model(variable(b"encoder/conv1/bias", HALF, code=4)))
    with pytest.raises(ExportError, match="encoder/num_heads"):
        whisper_encoder(path, origin=ORIGIN)


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    def ones(*shape: int) -> np.ndarray:
        return np.ones(shape, "<f4")

    parts = {
        b"conv1/bias": ones(4),
        b"num_heads": ones(),
        b"position_encodings/encodings": ones(10, 4),
        b"conv1/weight": ones(4, 80, 5),
    }
    path = write(tmp_path, model(*(variable(b"encoder/" + name, array) for name, array in parts.items())))
    with pytest.raises(ExportError, match=r"conv1/weight of shape \(4, 80, 3\), but found \(4, 80, 5\)"):
        whisper_encoder(path, origin=ORIGIN)
