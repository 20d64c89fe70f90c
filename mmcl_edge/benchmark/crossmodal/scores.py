"""The figures of a run: names, meanings, and how each follows from its record.

The score of a pair of modalities is the mean of R@1, R@5 and R@10 both ways, on the test samples. A pair is *seen*
where one of the two is text, which every stage teaches, and *unseen* where the two never met in training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from types import MappingProxyType
from typing import Literal

from mmcl_edge.benchmark.crossmodal.records import CODES, VECTORS, By, CrossmodalRecord, Stage
from mmcl_edge.benchmark.crossmodal.tasks import pair_name
from mmcl_edge.benchmark.tables import size_text
from mmcl_edge.benchmark.transfer import forgetting_of, mean_forgetting
from mmcl_edge.learners.retrieval import KS
from mmcl_edge.types import TEXT

RECALLS = tuple(f"R@{k}" for k in KS)
Measure = Callable[[CrossmodalRecord], "float | None"]
Unit = Literal["percent", "count", "bytes", "seconds"]
NOTHING = "none"
"""Stands for no bytes."""
Kind = Literal["figures", "chance", "luck"]


@dataclass(frozen=True, slots=True)
class Score:
    """A figure: how it is called, what it means in a sentence, and which way is good."""

    title: str
    meaning: str
    better: Literal["higher", "lower", "neither"]
    measure: Measure
    unit: Unit = "percent"


def pair_scores(stage: Stage, by: By = VECTORS, kind: Kind = "figures") -> dict[str, float]:
    """Pair of modalities to its score after a stage, a share."""
    found: dict[str, list[float]] = {}
    for one in stage.found:
        if one.by == by:
            values: Mapping[str, float] = getattr(one, kind)
            found.setdefault(pair_name(one.query, one.gallery), []).append(fmean(values[name] for name in RECALLS))
    return {name: fmean(values) for name, values in found.items()}


def is_seen(pair: str) -> bool:
    """Whether a pair of modalities was taught."""
    return TEXT in pair.split("-")


def _pairs(*, seen: bool, by: By = VECTORS, kind: Kind = "figures") -> Measure:
    def measure(record: CrossmodalRecord) -> float | None:
        return _mean(value for name, value in pair_scores(record.stages[-1], by, kind).items() if is_seen(name) is seen)

    return measure


def _forgetting(by: By = VECTORS) -> Measure:
    def measure(record: CrossmodalRecord) -> float | None:
        history = first_pair(record, by)
        return forgetting_of(history).relative if len(history) > 1 else None

    return measure


def _forgetting_of_all(record: CrossmodalRecord) -> float | None:
    after = [pair_scores(stage) for stage in record.stages]
    if len(after) < 2:
        return None
    return mean_forgetting({name: [one[name] for one in after if name in one] for name in after[-2]})


def first_pair(record: CrossmodalRecord, by: By = VECTORS) -> list[float]:
    """Score of the pair that was taught first, after each stage."""
    name = pair_name(TEXT, record.order[0])
    return [pair_scores(stage, by)[name] for stage in record.stages]


def _across(how: str, by: By, field: str = "accuracy") -> Measure:
    def measure(record: CrossmodalRecord) -> float | None:
        told = record.stages[-1].told
        return _mean(getattr(one, field) for one in told if one.how == how and one.by == by and one.train != one.test)

    return measure


def _within(record: CrossmodalRecord) -> float | None:
    told = record.stages[-1].told
    return _mean(one.accuracy for one in told if one.how == "linear" and one.by == VECTORS and one.train == one.test)


SCORES: Mapping[str, Score] = MappingProxyType(
    {
        "seen": Score("Seen pairs", "Mean score of the pairs with text.", "higher", _pairs(seen=True)),
        "unseen": Score(
            "Unseen pairs", "Mean score of the pairs that never met in training.", "higher", _pairs(seen=False)
        ),
        "seen_codes": Score(
            "Seen by codes",
            "The same by distributions over codes instead of vectors.",
            "higher",
            _pairs(seen=True, by=CODES),
        ),
        "unseen_codes": Score("Unseen by codes", "The same, of unseen pairs.", "higher", _pairs(seen=False, by=CODES)),
        "forgetting": Score(
            "First pair forgotten",
            "Share of the first pair's best score before the last stage that is gone after it; below 0 it grew.",
            "lower",
            _forgetting(),
        ),
        "forgetting_all": Score(
            "Earlier pairs forgotten",
            "The same of every pair, seen or not, that could be asked before the last stage, their mean.",
            "lower",
            _forgetting_of_all,
        ),
        "across_mean": Score(
            "Classes across",
            "Accuracy of nearest class means over codes, taught in one modality and asked in another.",
            "higher",
            _across("nearest_mean", CODES),
        ),
        "across_linear": Score(
            "Classes across (linear)",
            "The same with ridge regression on codes.",
            "higher",
            _across("linear", CODES),
        ),
        "across_mean_vectors": Score(
            "Classes across by vectors",
            "Nearest class means over vectors.",
            "higher",
            _across("nearest_mean", VECTORS),
        ),
        "across_linear_vectors": Score(
            "Classes across by vectors (linear)",
            "Ridge regression on vectors.",
            "higher",
            _across("linear", VECTORS),
        ),
        "named": Score(
            "Classes by name",
            "Accuracy by the name of a class alone: the name's vector that is nearest.",
            "higher",
            _across("name", VECTORS),
        ),
        "within": Score(
            "Same modality", "Ridge regression on vectors of the same modality: the ceiling.", "higher", _within
        ),
        "shared": Score(
            "Shared codes",
            "Share of the codes in use that two or more modalities use.",
            "higher",
            lambda record: record.stages[-1].shared,
        ),
        "perplexity": Score(
            "Perplexity",
            "Of the distribution of codes over the test samples of all modalities.",
            "higher",
            lambda record: record.stages[-1].perplexity,
            "count",
        ),
        "codes": Score(
            "Codes", "In the codebook at the end.", "neither", lambda record: float(record.stages[-1].codes), "count"
        ),
        "memory_bytes": Score(
            "Replay keeps",
            "What later stages need beside the space itself.",
            "lower",
            lambda record: float(record.stages[-1].memory_bytes),
            "bytes",
        ),
        "space_bytes": Score(
            "Space", "Everything that embeds and tells.", "lower", lambda r: float(r.stages[-1].space_bytes), "bytes"
        ),
        "stage_s": Score(
            "Longest stage",
            "Seconds of learning with the frozen features at hand, one core.",
            "lower",
            lambda record: max(stage.train_s for stage in record.stages),
            "seconds",
        ),
    }
)
"""Name to figure."""

CHANCE: Mapping[str, Measure] = MappingProxyType(
    {
        "seen": _pairs(seen=True, kind="chance"),
        "unseen": _pairs(seen=False, kind="chance"),
        **{name: _across("nearest_mean", CODES, "chance") for name in SCORES if name.startswith("across_")},
        "named": _across("name", VECTORS, "chance"),
    }
)
"""What knows nothing gets: a gallery in random order, or always the most frequent class."""
LUCK: Mapping[str, Measure] = MappingProxyType(
    {
        "seen": _pairs(seen=True, kind="luck"),
        "unseen": _pairs(seen=False, kind="luck"),
        "unseen_codes": _pairs(seen=False, by=CODES, kind="luck"),
    }
)
"""The upper end of the middle 95 % by permutation, mean over pairs."""


def unit_text(unit: Unit, value: float) -> str:
    """A figure with its unit; shares in per cent."""
    if unit == "percent":
        text = f"{100 * value:.1f}"
        return "0.0" if text == "-0.0" else text
    if unit == "bytes":
        return NOTHING if value == 0 else size_text(value)
    return f"{value:.3g} s" if unit == "seconds" else f"{value:.0f}"


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return fmean(found) if found else None
