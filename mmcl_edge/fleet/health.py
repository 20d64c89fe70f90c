"""Whether a pack works on this device: it answers what the device held out, and no worse than the pack in use.

Rules, in this order:

1. The canaries are the device's own held-out samples, at most ``MAX_CANARIES``, every class in turn, and its own
   held-out pairs, at most ``MAX_PAIRS`` of each modality; besides them one synthetic sample (silence, noise, rest) of
   everything that the bundle takes.
2. Every probability that the pack answers is finite, and so is every vector of its shared space, of length 1.
3. The pack knows every class of the canaries, and every modality that the shared space of the pack in use knows.
4. The share of canaries it answers rightly is at most ``tolerance`` below that of the pack in use; and so is, for each
   modality, the mean reciprocal rank of its pairs (the mean of both ways).

Rules 3 and 4 fall away where a pack is withdrawn: then the one named takes its place if it answers at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from mmcl_edge.bundle import AudioInput, FramesInput, InputSpec, MotionInput
from mmcl_edge.data.crossmodal import carrier_of
from mmcl_edge.errors import PackError
from mmcl_edge.types import MOTION_RATE_HZ, SAMPLE_RATE_HZ, Prediction, Sample

if TYPE_CHECKING:
    from mmcl_edge.runtime.engine import Runtime
    from mmcl_edge.runtime.replay_store import HeldPair

MAX_CANARIES = 64
"""Canaries of one check, so that it takes seconds on a small device."""

MAX_PAIRS = 32
"""Held-out pairs of one modality in one check, likewise."""

TOLERANCE = 0.1
"""Share of canaries (of pairs: mean reciprocal rank) by which a new pack may be worse: what adapt allows, too."""

_ROUNDING = 1e-9
_UNIT = 1e-3
"""By which a vector's length may differ from 1."""
_BREAKDOWNS = (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError)
"""What building or running a model of nonsensical shape may raise."""


@dataclass(frozen=True, slots=True)
class Examination:
    """How one pack answered.

    Attributes:
        right: canaries answered with their own class.
        canaries: how many there were.
        classes: that the pack knows.
        unusable: sources of the samples whose answer was not finite, or whose vector has not length 1.
        modalities: of its shared space.
        retrieval: modality to mean reciprocal rank on its held-out pairs.
    """

    right: int
    canaries: int
    classes: frozenset[str]
    unusable: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    retrieval: Mapping[str, float] = field(default_factory=dict)

    @property
    def accuracy(self) -> float | None:
        """Share of right answers; ``None`` without canaries."""
        return self.right / self.canaries if self.canaries else None


class Examiner(Protocol):
    """Examines packs on one set of canaries."""

    @property
    def asked(self) -> frozenset[str]:
        """The classes of the canaries."""
        ...

    def examine(self, pack: Path) -> Examination:
        """Let the pack in folder ``pack`` answer every canary.

        Raises:
            PackError: it is broken or made for another bundle.
        """
        ...


class RuntimeExaminer:
    """Examines packs with the installed bundle. Torch and ONNX Runtime are imported by the first examination."""

    def __init__(
        self,
        bundle: Path,
        canaries: Iterable[Sample],
        pairs: Iterable[HeldPair] = (),
        *,
        provider: str = "auto",
        threads: int | None = None,
    ) -> None:
        self._bundle = bundle
        self._canaries = chosen(canaries)
        self._pairs = chosen_pairs(pairs)
        self._how = (provider, threads)
        self._runtime: Runtime | None = None

    @property
    def asked(self) -> frozenset[str]:
        """The classes of the canaries."""
        return frozenset(sample.label for sample in self._canaries if sample.label is not None)

    def examine(self, pack: Path) -> Examination:
        """Let the pack in folder ``pack`` answer every canary, every pair and the synthetic sample.

        Raises:
            PackError: it is broken or made for another bundle.
            BundleError: the bundle is.
        """
        runtime = self._opened()
        extra = synthetic(runtime.bundle.manifest.inputs.values())
        try:
            runtime.load_pack(pack)
            answers = runtime.predict_batch([*self._canaries, extra]) if runtime.knows_classes else []
            space = _Embedded(runtime, self._pairs, extra)
        except _BREAKDOWNS as error:
            raise PackError(
                f"The pack at {pack} should answer samples, but its model breaks down ({type(error).__name__}: "
                f"{str(error)[:200]}); use another pack, and tell whoever published this one."
            ) from error
        found = judged(self._canaries, answers, frozenset(runtime.labels))
        return replace(
            found,
            unusable=(*found.unusable, *space.unusable),
            modalities=runtime.modalities,
            retrieval=space.retrieval,
        )

    def close(self) -> None:
        """Let go of the model and the sessions."""
        if self._runtime is not None:
            self._runtime.close()
            self._runtime = None

    def _opened(self) -> Runtime:
        if self._runtime is None:
            from mmcl_edge.runtime.engine import Runtime

            provider, threads = self._how
            self._runtime = Runtime.open(self._bundle, provider=provider, threads=threads)
        return self._runtime


class _Embedded:
    """What the shared space of the pack in use says of held-out pairs; nothing where it has none.

    Attributes:
        retrieval: see ``Examination``.
        unusable: see ``Examination``.
    """

    def __init__(self, runtime: Runtime, pairs: Sequence[HeldPair], extra: Sample) -> None:
        from mmcl_edge.runtime.holdout import retrieval_of

        self._runtime, self.unusable = runtime, list[str]()
        known = set(runtime.modalities)
        for modality in runtime.modalities:
            if getattr(extra, carrier_of(modality)) is not None:
                self._embed([extra], modality)
        self.retrieval = retrieval_of(self._embed, [one for one in pairs if {one.modality, one.mediator} <= known])

    def _embed(self, samples: Sequence[Sample], modality: str) -> NDArray[np.float32]:
        vectors = self._runtime.embed(samples, modality)
        right = np.isclose(np.linalg.norm(vectors.astype(np.float64), axis=1), 1.0, atol=_UNIT)
        self.unusable += [one.source or modality for one, good in zip(samples, right, strict=True) if not good]
        return np.where(right[:, None], vectors, np.float32(0))


def judged(canaries: Sequence[Sample], answers: Sequence[Prediction], classes: frozenset[str]) -> Examination:
    """What the answers say; answers beyond the canaries are of synthetic samples, and count as finite or not only."""
    right = sum(answer.label == canary.label for canary, answer in zip(canaries, answers, strict=False))
    sources = [*(canary.source or "a canary" for canary in canaries), *["a synthetic sample"] * len(answers)]
    unusable = tuple(
        source
        for source, answer in zip(sources, answers, strict=False)
        if not all(map(math.isfinite, answer.probabilities.values()))
    )
    return Examination(right, len(canaries), classes, unusable)


def complaint(
    old: Examination | None,
    new: Examination,
    asked: frozenset[str],
    *,
    tolerance: float = TOLERANCE,
    withdrawal: bool = False,
) -> str | None:
    """Rules 2 to 4: what is wrong with the new pack, as the end of a sentence; ``None`` if nothing is.

    Args:
        old: how the pack in use answered; ``None`` where there is none.
        new: how the new one did.
        asked: the classes of the canaries.
        tolerance: share of canaries by which it may be worse.
        withdrawal: whether the pack in use is withdrawn in favour of the new one.
    """
    if new.unusable:
        return (
            f"its answers to {len(new.unusable)} samples are not finite, or no unit vectors (first: {new.unusable[0]})"
        )
    if withdrawal or old is None:
        return None
    lost = sorted(asked - new.classes)
    if lost:
        return f"it does not know {len(lost)} classes that this device knows ({', '.join(map(repr, lost[:3]))})"
    untaught = [name for name in old.modalities if name not in new.modalities]
    if untaught:
        return f"its shared space does not know {', '.join(untaught)}, which this device knows"
    before, after = old.accuracy, new.accuracy
    if before is not None and after is not None and after < before - tolerance - _ROUNDING:
        return (
            f"it answers {100 * after:.1f} % of {new.canaries} canaries rightly, the pack in use {100 * before:.1f} % "
            f"(tolerance {100 * tolerance:g} %)"
        )
    return _worse_retrieval(old, new, tolerance)


def _worse_retrieval(old: Examination, new: Examination, tolerance: float) -> str | None:
    for modality, rank in old.retrieval.items():
        now = new.retrieval.get(modality, 0.0)
        if now < rank - tolerance - _ROUNDING:
            return (
                f"it finds held-out pairs of {modality} with a mean reciprocal rank of {now:.3f}, the pack in use with "
                f"{rank:.3f} (tolerance {tolerance:g})"
            )
    return None


def chosen(samples: Iterable[Sample], limit: int = MAX_CANARIES) -> tuple[Sample, ...]:
    """At most ``limit`` of the samples: the first of every class, the second of every class, and so on."""
    classes: dict[str, list[Sample]] = {}
    for sample in samples:
        classes.setdefault(sample.label or "", []).append(sample)
    turns = chain.from_iterable(zip_longest(*(classes[name] for name in sorted(classes))))
    return tuple(islice((sample for sample in turns if sample is not None), limit))


def chosen_pairs(pairs: Iterable[HeldPair], limit: int = MAX_PAIRS) -> tuple[HeldPair, ...]:
    """At most ``limit`` pairs of each modality, the first ones."""
    modalities: dict[str, list[HeldPair]] = {}
    for pair in pairs:
        modalities.setdefault(pair.modality, []).append(pair)
    return tuple(pair for held in modalities.values() for pair in held[:limit])


def synthetic(inputs: Iterable[InputSpec]) -> Sample:
    """One sample of every kind that the bundle takes: silence, a picture of noise, a body at rest, two words."""
    audio = frames = motion = text = None
    for spec in inputs:
        if isinstance(spec, AudioInput):
            audio = np.zeros(round(max(spec.min_duration_s, 0.5) * SAMPLE_RATE_HZ), dtype=np.float32)
        elif isinstance(spec, FramesInput):
            frames = np.random.default_rng(0).integers(0, 256, (1, spec.height, spec.width, 3)).astype(np.uint8)
        elif isinstance(spec, MotionInput):
            rest = np.asarray(spec.mean, dtype=np.float32)
            motion = np.tile(rest, (round(spec.window_s * MOTION_RATE_HZ), 1))
        else:
            text = "a sound"
    return Sample(audio, frames, None, "a synthetic sample", motion, text)
