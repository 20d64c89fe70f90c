"""A bundle and a pack as one ONNX graph with all weights inside, checked against the live runtime."""

from __future__ import annotations

import math
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from onnx.external_data_helper import load_external_data_for_model

from mmcl_edge.adapters.model import Model
from mmcl_edge.bundle import AudioInput, Bundle, FramesInput, InputSpec, MotionInput, TextInput
from mmcl_edge.data.motion import resample_motion
from mmcl_edge.errors import ExportError, InputError, StorageError
from mmcl_edge.export.examples import raw_input
from mmcl_edge.export.onnx_graph import write_model
from mmcl_edge.export.predict_graph import StandIn, spliced, traced
from mmcl_edge.fileio import atomic_folder, pretty_json, write_atomic
from mmcl_edge.learners.persistence import model_from_pack
from mmcl_edge.packs import Pack, read_pack
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.fused import FUSED_NAME, MODEL_NAME, PACK_NAME, FusedManifest, FusedRuntime
from mmcl_edge.runtime.predict_graph import output_sizes, weights_of
from mmcl_edge.types import MOTION_RATE_HZ, SAMPLE_RATE_HZ, Prediction, Sample

MAX_DIFFERENCE = 1e-4
"""Between probabilities of the fused graph and of the live runtime."""
_DURATIONS_S = (5.0, 1.0, 2.4)
_ROUNDS = 15


@dataclass(frozen=True, slots=True)
class FuseReport:
    """What came of it.

    Attributes:
        largest_difference: between probabilities of the fused graph and of the live runtime.
        fused_ms: median time of a prediction, taken in turns with
        live_ms: that of the live runtime.
        size_bytes: of the graph.
    """

    largest_difference: float
    fused_ms: float
    live_ms: float
    size_bytes: int


def fuse(
    bundle: Bundle, pack: Path | str, out: Path, *, modalities: Sequence[str] | None = None, force: bool = False
) -> FuseReport:
    """Write the fused folder ``out``, whole or not at all.

    Args:
        bundle: the bundle.
        pack: a pack made for it.
        out: the folder.
        modalities: those that a sample has; all of the bundle's by default.
        force: replace a fused folder that stands there.

    Raises:
        PackError: the pack is broken or made for another bundle.
        InputError: an unknown modality.
        ExportError: the graph disagrees with the live runtime.
        StorageError: ``out`` exists (without ``force``) or cannot be written.
    """
    chosen = _known(bundle, modalities)
    _refuse_taken_folder(out, force=force)
    read = read_pack(pack, bundle_digest=bundle.family)
    with atomic_folder(out, replace=force) as folder:
        model = _model(bundle, read)
        file = write_model(_with_weights(bundle, read, model, chosen), folder=folder, path=MODEL_NAME)
        manifest = FusedManifest(
            bundle_digest=bundle.digest,
            family=bundle.family,
            pack_digest=read.digest,
            model=file,
            inputs={name: bundle.manifest.inputs[name] for name in chosen},
            sizes=output_sizes(model),
        )
        for spec in manifest.inputs.values():
            if isinstance(spec, TextInput):
                _copy(bundle.file(spec.vocabulary), folder / spec.vocabulary.path)
        write_atomic(folder / FUSED_NAME, pretty_json(manifest.model_dump(mode="json")))
        shutil.copytree(read.path, folder / PACK_NAME)
        return _checked(folder, Runtime.open(bundle, read.path, "cpu"), file.size_bytes)


def _known(bundle: Bundle, modalities: Sequence[str] | None) -> tuple[str, ...]:
    have = bundle.manifest.modalities
    unknown = sorted(set(modalities or have) - set(have))
    if unknown:
        raise InputError(
            f"The bundle has {', '.join(have)}, but {', '.join(map(repr, unknown))} was asked for; choose among them."
        )
    return tuple(name for name in have if name in (modalities or have))


def _refuse_taken_folder(out: Path, *, force: bool) -> None:
    if out.exists() and not force:
        raise StorageError(f"{out} exists already; choose another folder, or replace the model with --force.")
    if out.exists() and not (out / FUSED_NAME).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise StorageError(f"--force replaces a fused model, but {out} holds other files; choose another folder.")


def _model(bundle: Bundle, pack: Pack) -> Model:
    model = model_from_pack(pack, {entry.modality: StandIn(entry) for entry in bundle.manifest.backbones})
    model.fix()
    return model


def _with_weights(bundle: Bundle, pack: Pack, model: Model, modalities: Sequence[str]) -> onnx.ModelProto:
    """The predict graph of the pack's own settings, the inputs for its weights replaced by the weights."""
    config = pack.config
    graph = traced(bundle.manifest.backbones, modalities, config.adapter, config.head)
    graph = spliced(graph, bundle.path, name=MODEL_NAME)
    load_external_data_for_model(graph, str(bundle.path))
    weights = weights_of(model)
    kept = [value for value in graph.graph.input if value.name not in weights]
    del graph.graph.input[:]
    graph.graph.input.extend(kept)
    graph.graph.initializer.extend(numpy_helper.from_array(value.numpy(), name) for name, value in weights.items())
    return graph


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _checked(folder: Path, live: Runtime, size_bytes: int) -> FuseReport:
    fused = FusedRuntime.open(folder, "cpu")
    samples = _samples(fused.manifest.inputs)
    worst = 0.0
    for sample in samples:
        one, other = (_predict(runtime, sample).probabilities for runtime in (fused, live))
        worst = max(worst, *(abs(one[label] - other[label]) for label in other))
    if worst > MAX_DIFFERENCE:
        raise ExportError(
            f"The fused graph should answer as the live runtime, to {MAX_DIFFERENCE:g}, but differs by {worst:.3g}; "
            "nothing was written. Use the package versions of the 'export' extra."
        )
    first = samples[0]
    fused_ms, live_ms = _in_turns(*(partial(_predict, r, first) for r in (fused, live)))
    return FuseReport(worst, fused_ms, live_ms, size_bytes)


def _predict(runtime: FusedRuntime | Runtime, sample: Sample) -> Prediction:
    return runtime.predict(sample.audio, sample.frames, motion=sample.motion, text=sample.text)


def _samples(inputs: dict[str, InputSpec]) -> list[Sample]:
    generator = torch.Generator().manual_seed(0)
    samples = []
    for duration_s in _DURATIONS_S:
        sound = pictures = motion = text = None
        for spec in inputs.values():
            if isinstance(spec, TextInput):
                text = " ".join(["a dog barks"] * math.ceil(duration_s))
                continue
            x = raw_input(spec, batch=1, duration_s=duration_s, generator=generator)
            if isinstance(spec, AudioInput):
                sound = x[0, : round(duration_s * SAMPLE_RATE_HZ)].numpy()
            elif isinstance(spec, FramesInput):
                pictures = x.round().byte().permute(0, 2, 3, 1).contiguous().numpy()
            elif isinstance(spec, MotionInput):
                readings = resample_motion(x[0].T.numpy(), spec.rate_hz, MOTION_RATE_HZ)
                motion = readings[: round(duration_s * MOTION_RATE_HZ)]
        samples.append(Sample(sound, pictures, motion=motion, text=text))
    return samples


def _in_turns(*calls: Callable[[], object]) -> list[float]:
    """Median milliseconds of each, taken in turns."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(_ROUNDS):
        for call, taken in zip(calls, times, strict=True):
            started = time.perf_counter()
            call()
            taken.append(1e3 * (time.perf_counter() - started))
    return [statistics.median(taken) for taken in times]
