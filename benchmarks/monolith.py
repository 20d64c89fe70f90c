"""The bare peer: each backbone of a bundle as one ONNX graph, without adapters, run by ONNX Runtime as it comes.

The graphs are made of the bundle's own files, so that both sides compute the same from the same weights; in one graph
ONNX Runtime may optimise across the places where the bundle is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper
from onnx.external_data_helper import load_external_data_for_model

from mmcl_edge.bundle import BackboneEntry, Bundle
from mmcl_edge.export.predict_graph import spliced
from mmcl_edge.runtime.threads import SPIN_US, available_cores

_LOG_ERRORS_ONLY = 3
_PLACE = "mmcl_edge"
"""Domain of the nodes that ``spliced`` replaces."""
Settings = Mapping[str, object]
SETTINGS: Mapping[str, Settings] = {
    "default": {},
    "spin": {"threads": True, "spinning": "1"},
    "no_spin": {"threads": True, "spinning": "0"},
    "brief_spin": {"threads": True, "spinning": "1", "spin_us": str(SPIN_US)},
}
"""ONNX Runtime's own choice of threads; a thread a core that spins while it waits; one that sleeps; one that spins as
briefly as ours."""


def write_monoliths(bundle: Bundle, folder: Path) -> dict[str, Path]:
    """Each backbone as one self-contained file in ``folder``, by modality."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for entry in bundle.manifest.backbones:
        written[entry.modality] = folder / f"{entry.modality}.onnx"
        onnx.save(monolith(bundle, entry), str(written[entry.modality]))
    return written


def monolith(bundle: Bundle, entry: BackboneEntry) -> onnx.ModelProto:
    """Stem, segments and output of one backbone in one graph from ``x`` to ``y``, weights inside."""
    paths = [entry.stem.path, *(one.forward.path for one in (*entry.segments, entry.output))]
    first, last = (onnx.load(bundle.path / path, load_external_data=False) for path in (paths[0], paths[-1]))
    values = ["x", *(f"between_{number}" for number in range(1, len(paths))), "y"]
    nodes = [
        helper.make_node("Graph", [values[i]], [values[i + 1]], domain=_PLACE, path=path)
        for i, path in enumerate(paths)
    ]
    graph = helper.make_graph(nodes, entry.modality, [first.graph.input[0]], [last.graph.output[0]])
    model = helper.make_model(graph, opset_imports=first.opset_import, ir_version=first.ir_version)
    whole = spliced(model, bundle.path, name=entry.modality)
    load_external_data_for_model(whole, str(bundle.path))
    return whole


def session_options(settings: Settings) -> ort.SessionOptions:
    """Options of one of ``SETTINGS``."""
    options = ort.SessionOptions()
    options.log_severity_level = _LOG_ERRORS_ONLY
    if "threads" in settings:
        options.intra_op_num_threads = available_cores()
        options.add_session_config_entry("session.intra_op.allow_spinning", str(settings["spinning"]))
    if "spin_us" in settings:
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(settings["spin_us"]))
    return options


def write_ort_format(files: Mapping[str, Path]) -> dict[str, Path]:
    """The graphs optimised for this machine and saved in ONNX Runtime's own format, beside the given files."""
    written = {}
    for modality, path in files.items():
        options = session_options(SETTINGS["default"])
        written[modality] = path.with_suffix(".ort")
        options.optimized_model_filepath = str(written[modality])
        options.add_session_config_entry("session.save_model_format", "ORT")
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return written


def runner(
    files: Mapping[str, Path], settings: Settings, inputs: Mapping[str, NDArray[np.float32]]
) -> Callable[[], dict[str, NDArray[np.float32]]]:
    """A function that runs every graph once on its prepared input, one after the other."""
    sessions = {
        name: ort.InferenceSession(str(path), session_options(settings), providers=["CPUExecutionProvider"])
        for name, path in files.items()
    }
    return partial(_run, sessions, inputs)


def _run(
    sessions: Mapping[str, ort.InferenceSession], inputs: Mapping[str, NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    return {name: session.run(["y"], {"x": inputs[name]})[0] for name, session in sessions.items()}


def contestants(
    bundle: Bundle, folder: Path, inputs: Mapping[str, NDArray[np.float32]]
) -> dict[str, Callable[[], dict[str, NDArray[np.float32]]]]:
    """The monoliths in every setting, and in ONNX Runtime's format, ready to run on ``inputs``."""
    files = write_monoliths(bundle, folder)
    made = {f"monolith_{name}": runner(files, settings, inputs) for name, settings in SETTINGS.items()}
    return made | {"ort_format": runner(write_ort_format(files), SETTINGS["no_spin"], inputs)}
