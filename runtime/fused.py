"""A fused folder: one pack on one bundle as a single ONNX graph, for devices that only predict.

Made by ``mmcl-edge export --fuse PACK``. Layout::

    fused.json      inputs, sizes, digests (``FusedManifest``)
    model.onnx      stems, segments, adapters, fusion and head with their weights; any ONNX Runtime runs it
    pack/           the pack it was made of: labels, calibration, provenance
    text/vocab.txt  the vocabulary, where the graph takes text

Example::

    with FusedRuntime.open("fused") as runtime:
        print(runtime.predict(waveform, picture).label)
"""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from mmcl_edge.bundle import FileEntry, InputSpec
from mmcl_edge.errors import BundleError, InputError, IntegrityError
from mmcl_edge.fileio import read_json
from mmcl_edge.packs import Pack, read_pack
from mmcl_edge.runtime.answers import Voice
from mmcl_edge.runtime.predict_graph import BoundModel
from mmcl_edge.runtime.preprocess import Preprocessor
from mmcl_edge.runtime.sessions import SessionFactory
from mmcl_edge.runtime.threads import ThreadPlan
from mmcl_edge.types import MOTION_RATE_HZ, SAMPLE_RATE_HZ, FrozenModel, Prediction

FUSED_NAME = "fused.json"
MODEL_NAME = "model.onnx"
PACK_NAME = "pack"


class FusedManifest(FrozenModel):
    """Contents of ``fused.json``."""

    schema_version: Literal[1] = 1
    bundle_digest: str = Field(description="The bundle that was fused.")
    family: str = Field(description="What its packs are bound to.")
    pack_digest: str
    model: FileEntry
    inputs: dict[str, InputSpec] = Field(
        description="What the graph takes, by modality; a sample must have all of them."
    )
    sizes: dict[str, tuple[int, ...]] = Field(description="Shapes of the graph's outputs.")


class FusedRuntime:
    """Predicts with a fused folder. Use ``FusedRuntime.open``; safe in many threads."""

    def __init__(self, manifest: FusedManifest, pack: Pack, bound: BoundModel, preprocess: Preprocessor) -> None:
        self.manifest = manifest
        self.pack = pack
        self.preprocess = preprocess
        self._voice = Voice.of(pack)
        self._bound: BoundModel | None = bound

    @classmethod
    def open(cls, folder: Path | str, provider: str = "auto", threads: int | None = None) -> FusedRuntime:
        """Open and verify a fused folder (provider and threads as ``Runtime.open`` takes them).

        Raises:
            BundleError: the folder or its graph is missing or broken.
            PackError: its pack is.
            ProviderError: another provider would run.
        """
        folder = Path(folder)
        manifest = _read(folder)
        path = _verified(manifest, folder)
        preprocess = _preprocessor(manifest, folder)
        pack = read_pack(folder / PACK_NAME, expected_digest=manifest.pack_digest, bundle_digest=manifest.family)
        plan = ThreadPlan.for_machine(threads)
        plan.apply()
        graph = SessionFactory(plan, provider=provider).graph(path)
        _ = graph.session
        bound = BoundModel({frozenset(manifest.inputs): graph}, {}, manifest.sizes)
        return cls(manifest, pack, bound, preprocess)

    def __enter__(self) -> FusedRuntime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the session; using the runtime afterwards is an ``InputError``."""
        self._bound = None

    @property
    def labels(self) -> tuple[str, ...]:
        """Classes of the pack."""
        return self._voice.labels

    def predict(
        self,
        audio: NDArray[Any] | None,
        frames: NDArray[Any] | None,
        *,
        sample_rate_hz: int = SAMPLE_RATE_HZ,
        motion: NDArray[Any] | None = None,
        motion_rate_hz: float = MOTION_RATE_HZ,
        text: str | None = None,
    ) -> Prediction:
        """Classify one sample that has every modality of the graph (arguments as ``Runtime.predict`` takes them).

        Raises:
            InputError: a modality is missing, or the arrays are not of that kind.
        """
        bound = self._bound
        if bound is None:
            raise InputError("Expected an open runtime, but this one was closed; open another with FusedRuntime.open.")
        started = time.perf_counter()
        sample = self.preprocess.sample(
            audio, frames, sample_rate_hz=sample_rate_hz, motion=motion, motion_rate_hz=motion_rate_hz, text=text
        )
        item = self.preprocess(sample)
        if not bound.takes(item):
            raise InputError(
                f"The fused graph takes {' and '.join(self.manifest.inputs)}, but the sample has {' and '.join(item)}; "
                "fuse a graph for it with 'mmcl-edge export --fuse PACK --modalities ...', or use a bundle."
            )
        prepared = time.perf_counter()
        with torch.inference_mode():
            raw = bound(item)
        done = time.perf_counter()
        latency = {"preprocess": prepared - started, "encode": done - prepared, "total": done - started}
        return self._voice.word(raw, {name: 1e3 * value for name, value in latency.items()})[0]


def _verified(manifest: FusedManifest, folder: Path) -> Path:
    try:
        return manifest.model.verify(folder)
    except IntegrityError as error:
        raise BundleError(str(error)) from error


def _preprocessor(manifest: FusedManifest, folder: Path) -> Preprocessor:
    try:
        return Preprocessor(manifest.inputs, folder)
    except BundleError:
        raise
    except IntegrityError as error:
        raise BundleError(str(error)) from error


def _read(folder: Path) -> FusedManifest:
    if not (folder / FUSED_NAME).is_file():
        raise BundleError(
            f"Expected a fused model (a folder with {FUSED_NAME}) at {folder}, but there is none; "
            "make one with 'mmcl-edge export --fuse PACK --out DIR'."
        )
    try:
        return FusedManifest.model_validate(read_json(folder / FUSED_NAME))
    except IntegrityError as error:
        raise BundleError(str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{folder / FUSED_NAME} is not a valid manifest: at '{where}', {first['msg']}.") from error
