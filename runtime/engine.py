"""``Runtime``: a bundle and a pack, ready to predict and to retrieve. The narrow door for application developers.

Example::

    with Runtime.open("bundle", "packs/current") as runtime:
        answer = runtime.predict(waveform, picture, sample_rate_hz=44_100)
        print(answer.label, answer.top_k(3))
        for hit in runtime.retrieve(Path("question.wav"), 3, read_as="speech", modality="image"):
            print(hit.path, hit.score)
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmcl_edge.adapters.encoder import LadderEncoder
from mmcl_edge.adapters.inputs import Item, collate
from mmcl_edge.adapters.model import Model
from mmcl_edge.bundle import Bundle
from mmcl_edge.data.crossmodal import MEDIATOR
from mmcl_edge.errors import InputError
from mmcl_edge.learners.analytic.model import AnalyticModel
from mmcl_edge.learners.analytic.moments import MomentEncoder
from mmcl_edge.learners.comet.storage import holds_space
from mmcl_edge.learners.persistence import predictor_from_pack
from mmcl_edge.packs import Pack, read_pack
from mmcl_edge.runtime.answers import RawAnswer, Voice
from mmcl_edge.runtime.index_items import Hit, Origin
from mmcl_edge.runtime.predict_graph import BoundModel, PredictGraphs
from mmcl_edge.runtime.preprocess import Preprocessor
from mmcl_edge.runtime.retrieving import OpenIndex, retrieve
from mmcl_edge.runtime.segments import OnnxBackbone, open_backbones
from mmcl_edge.runtime.sessions import SessionFactory
from mmcl_edge.runtime.shared_space import TEACH, SharedSpace
from mmcl_edge.runtime.threads import ThreadPlan
from mmcl_edge.runtime.workspace import ENGINES_NAME, INDEX_FOLDER, home
from mmcl_edge.types import MOTION_RATE_HZ, SAMPLE_RATE_HZ, Prediction, Sample

MAX_BATCH = 16
"""Samples of one pass in ``predict_batch``: bounds its memory."""


@dataclass(frozen=True, slots=True)
class _Classes:
    """What answers over a pack's classes."""

    model: Model | AnalyticModel
    device: torch.device
    bound: BoundModel
    voice: Voice


@dataclass(frozen=True, slots=True)
class _Loaded:
    """One pack in use. Never changed, so whoever holds it sees one pack only."""

    pack: Pack
    classes: _Classes | None
    space: SharedSpace | None


class Runtime:
    """Predicts with one bundle and, at any moment, one pack. Use ``Runtime.open``; safe in many threads."""

    def __init__(self, bundle: Bundle, sessions: SessionFactory) -> None:
        self.bundle = bundle
        self.sessions = sessions
        self.backbones: dict[str, OnnxBackbone] = open_backbones(bundle, sessions)
        self.predict_graphs = PredictGraphs(bundle, sessions)
        self.preprocess = Preprocessor.of(bundle)
        self._loaded: _Loaded | None = None
        self._index: OpenIndex | None = None

    @classmethod
    def open(
        cls,
        bundle: Bundle | Path | str,
        pack: Path | str | None = None,
        provider: str = "auto",
        threads: int | None = None,
        *,
        allow_fallback: bool = False,
        engines: Path | None = None,
    ) -> Runtime:
        """Open and verify a bundle and, if given, a pack.

        Args:
            bundle: folder of a bundle, or an opened one.
            pack: folder of a pack; without one, call ``load_pack`` before predicting.
            provider: ``auto``, ``cpu``, ``cuda`` or ``tensorrt``, with device and memory cap in MB where wanted, as in
                ``cuda:1,memory=4096``.
            threads: for the backbones; ``None`` takes every core.
            allow_fallback: accept another provider than the one asked for.
            engines: where TensorRT's engines are kept; by default ``engines/`` in the workspace.

        Raises:
            BundleError: the bundle is missing or broken.
            PackError: the pack is missing, broken, or made for another bundle.
            ProviderError: another provider would run.
        """
        plan = ThreadPlan.for_machine(threads)
        sessions = SessionFactory(
            plan, provider=provider, allow_fallback=allow_fallback, engines=engines or home() / ENGINES_NAME
        )
        plan.apply()
        runtime = cls(bundle if isinstance(bundle, Bundle) else Bundle.open(bundle), sessions)
        if pack is None:
            _ = next(iter(runtime.backbones.values())).graphs(training=False)[0].session  # the provider is known now
        else:
            runtime.load_pack(pack)
        return runtime

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the model, the sessions and the index; using the runtime afterwards is an ``InputError``."""
        self._loaded = self._index = None
        self.backbones = {}
        self.predict_graphs.close()

    def warm(self) -> None:
        """Make the sessions that answer one sample of all modalities; others are made when first needed."""
        self._warm(self._current())

    def _warm(self, loaded: _Loaded) -> None:
        fullest = None if loaded.classes is None else loaded.classes.bound.fullest
        segments = [graph for backbone in self.backbones.values() for graph in backbone.graphs(training=False)]
        for graph in segments if fullest is None else [fullest]:
            _ = graph.session

    @property
    def labels(self) -> tuple[str, ...]:
        """Classes of the pack in use."""
        return self._current().pack.manifest.label_names

    @property
    def knows_classes(self) -> bool:
        """Whether ``predict`` can answer with the pack in use; it may hold a shared space alone."""
        return self._current().classes is not None

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities of the shared space of the pack in use, in the order in which they joined; none without one."""
        space = self._current().space
        return () if space is None else space.modalities

    @property
    def pack(self) -> Pack:
        """The pack in use."""
        return self._current().pack

    def load_pack(self, pack: Path | str) -> str:
        """Verify a pack, build its model, then put it in charge at once; returns its digest.

        Other threads go on predicting meanwhile; every answer comes from one pack, old or new.

        Raises:
            PackError: the pack is broken or made for another bundle; the one in use stays.
            BundleError: a graph that it needs cannot be loaded; the one in use stays.
            InputError: the runtime is closed.
        """
        self._check_open()
        read = read_pack(pack, bundle_digest=self.bundle.family)
        space = SharedSpace(read, self.backbones, self.preprocess) if holds_space(read) else None
        loaded = _Loaded(read, self._classes(read), space)
        self._warm(loaded)
        self._loaded = loaded
        return read.digest

    def _classes(self, pack: Pack) -> _Classes | None:
        model = predictor_from_pack(pack, self.backbones)
        if model is None:
            return None
        if isinstance(model, Model):
            model.fix()
        bound, device = self.predict_graphs.bind(model, pack.config), self.sessions.device
        return _Classes(model.to(device), device, bound, Voice.of(pack))

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
        """Classify one sample.

        Args:
            audio: float32 in [-1, 1] or int16, ``(samples,)`` or ``(channels, samples)``, or ``None``.
            frames: uint8 RGB ``(H, W, 3)`` or ``(T, H, W, 3)``, or ``None``.
            sample_rate_hz: of ``audio``.
            motion: sensor readings ``(samples, channels)`` in the unit that the bundle's backbone takes, or ``None``.
            motion_rate_hz: of ``motion``.
            text: a sentence, or ``None``; what is longer than the bundle's backbone takes is cut off.

        Raises:
            InputError: the arrays or the text are not of that kind, or all are ``None``.
        """
        classes, started = self._answering(), time.perf_counter()
        sample = self.preprocess.sample(
            audio, frames, sample_rate_hz=sample_rate_hz, motion=motion, motion_rate_hz=motion_rate_hz, text=text
        )
        item = self.preprocess(sample)
        preprocess_ms = 1e3 * (time.perf_counter() - started)
        return _answer(classes, [item], preprocess_ms=preprocess_ms)[0]

    def predict_batch(self, samples: Sequence[Sample]) -> list[Prediction]:
        """Classify several samples with one pack; up to 16 of one length share a pass, and none sees another's padding.

        ``latency_ms`` is that of a sample's own pass, shared by all in it.

        Raises:
            InputError: a sample cannot be used; the message names its source.
        """
        classes, started = self._answering(), time.perf_counter()
        items = [self.preprocess(self._checked(sample)) for sample in samples]
        preprocess_ms = 1e3 * (time.perf_counter() - started) / max(1, len(items))
        groups: dict[str, list[int]] = {}
        for number, item in enumerate(items):
            groups.setdefault(str({name: tuple(one.values.shape) for name, one in item.items()}), []).append(number)
        answers: dict[int, Prediction] = {}
        for group in groups.values():
            for members in (group[i : i + MAX_BATCH] for i in range(0, len(group), MAX_BATCH)):
                passed = _answer(classes, [items[i] for i in members], preprocess_ms=preprocess_ms)
                answers |= zip(members, passed, strict=True)
        return [answers[number] for number in range(len(items))]

    def embed(self, samples: Sequence[Sample], modality: str) -> NDArray[np.float32]:
        """Samples in the shared space of the pack in use.

        Args:
            samples: each holds what ``modality`` rides on: text, frames (image, video), audio (sound, speech), motion.
            modality: how to take them.

        Returns:
            Unit vectors ``(n, D)``, the same D for every modality: their dot products are cosines.

        Raises:
            InputError: the pack has no shared space or does not know the modality, or a sample lacks it or cannot be
                used.
        """
        return self._space().embed([self._checked(sample) for sample in samples], modality)

    def retrieve(
        self,
        query: str | Path | Sample,
        k: int = 5,
        *,
        modality: str | None = None,
        read_as: str | None = None,
        index: Path | str | None = None,
    ) -> list[Hit]:
        """The indexed files nearest to a query of any modality, best first (``mmcl-edge index build`` makes the index).

        Args:
            query: words, the path of a file, or a sample.
            k: how many, at most.
            modality: of what is looked for; ``None`` takes all.
            read_as: what the query is, where its kind leaves that open: a recording is taken as a sound, unless
                ``speech`` is said.
            index: folder of the index; ``None`` takes that of the workspace.

        Raises:
            InputError: the pack has no shared space, does not know a modality, or the query cannot be used.
            VectorIndexError: the index is missing, broken, or was made in another space.
        """
        space = self._space()
        folder = home() / INDEX_FOLDER if index is None else Path(index)
        found = self._index = OpenIndex.read(folder, self._origin(space), self._index)
        asked = self._checked(query) if isinstance(query, Sample) else query
        return retrieve(space, found, asked, k, modality=modality, read_as=read_as)

    @property
    def origin(self) -> Origin:
        """What an index of this runtime's embeddings belongs to.

        Raises:
            InputError: the pack in use has no shared space.
        """
        return self._origin(self._space())

    def _origin(self, space: SharedSpace) -> Origin:
        return Origin(space.digest, len(space.facts.stages), self.bundle.family)

    def _space(self) -> SharedSpace:
        space = self._current().space
        if space is None:
            raise InputError(
                "Expected a pack with a shared space of modalities, but the one in use has none; teach it one with "
                f"{TEACH.format('image', MEDIATOR)}."
            )
        return space

    def _answering(self) -> _Classes:
        classes = self._current().classes
        if classes is None:
            raise InputError(
                "Expected a pack that knows classes, but the one in use holds a shared space alone; teach it some with "
                "'mmcl-edge adapt --task NAME', or ask it with embed or retrieve (mmcl-edge index query)."
            )
        return classes

    def _checked(self, sample: Sample) -> Sample:
        try:
            checked = self.preprocess.sample(sample.audio, sample.frames, motion=sample.motion, text=sample.text)
        except InputError as error:
            raise InputError(f"{sample.source or 'a sample'}: {error}") from error
        return replace(checked, source=sample.source)

    def _check_open(self) -> None:
        if not self.backbones:
            raise InputError("Expected an open runtime, but this one was closed; open another with Runtime.open.")

    def _current(self) -> _Loaded:
        self._check_open()
        loaded = self._loaded
        if loaded is None:
            raise InputError("Expected a pack in use, but none is loaded; call load_pack(path) or pass pack= to open.")
        return loaded


def _answer(classes: _Classes, items: Sequence[Item], *, preprocess_ms: float) -> list[Prediction]:
    """One pass over items of one shape."""
    started = time.perf_counter()
    with torch.inference_mode():
        if len(items) == 1 and classes.bound.takes(items[0]):
            raw = classes.bound(items[0])
        else:
            raw = RawAnswer.of(classes.model(_batch(classes.model, items, classes.device)))
    encode_ms = 1e3 * (time.perf_counter() - started)
    latency = {"preprocess": preprocess_ms, "encode": encode_ms, "total": preprocess_ms + encode_ms}
    return classes.voice.word(raw, latency)


def _batch(model: Model | AnalyticModel, items: Sequence[Item], device: torch.device) -> Any:
    inputs = {name: one.to(device) for name, one in collate(items).items()}
    encoder = model.encoder
    return encoder.extract(inputs) if isinstance(encoder, LadderEncoder | MomentEncoder) else inputs
