"""What each part of the method is worth: with it and without it, on the same runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mmcl_edge.benchmark.crossmodal.board import Board
from mmcl_edge.benchmark.crossmodal.document import Table, interval_text, listed
from mmcl_edge.benchmark.crossmodal.scores import SCORES
from mmcl_edge.benchmark.crossmodal.targets import ONE_SEED
from mmcl_edge.benchmark.intervals import Interval

COUNTED = ("seen", "unseen", "seen_codes", "unseen_codes", "forgetting", "across_mean", "across_linear")
"""Figures that tell whether a part helps."""
JUDGED = (*COUNTED, "shared")
"""Figures that a part may change."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part: the learner with it, and the one without."""

    about: str
    setting: str
    whole: str
    without: str


PARTS = (
    Part("Pseudo-modality replay, light", "from the default start", "comet", "comet-no-replay"),
    Part("Pseudo-modality replay, light", "from a random start", "comet-random", "comet-no-replay-random"),
    Part(
        "Pseudo-modality replay, light",
        "from a random start, text learning in every stage",
        "comet-moving-random",
        "comet-moving-no-replay-random",
    ),
    Part("Pseudo-modality replay, generative", "from the default start", "comet-generative", "comet-no-replay"),
    Part(
        "Pseudo-modality replay, generative", "from a random start", "comet-generative-random", "comet-no-replay-random"
    ),
    Part("CMoE-Adapter", "from the default start", "comet", "comet-no-cmoe"),
    Part("CMoE-Adapter", "from a random start", "comet-random", "comet-no-cmoe-random"),
    Part("Expansion of the codebook", "from the default start", "comet", "comet-fixed-codebook"),
    Part("Expansion of the codebook", "from a random start", "comet-random", "comet-fixed-codebook-random"),
    Part("Codes instead of a continuous space", "from the default start", "comet", "comet-continuous"),
    Part("Start at the ridge regression", "against a random start", "comet", "comet-random"),
    Part("Steps by gradient after that start", "from the default start", "comet", "comet-ridge"),
)


def parts_table(board: Board, task: str) -> Table:
    """With less without, paired by seed and order."""
    header = ("part", "setting", *(SCORES[name].title for name in JUDGED), "shown")
    rows = tuple(
        (part.about, part.setting, *(interval_text(differences(board, task, part)[name]) for name in JUDGED), word)
        for part, word in judged(board, task)
    )
    return Table(f"On {task}", header, rows)


NOTE = (
    "Below: points with the part less points without it, paired by seed and order, with 95 % intervals over seeds (not "
    "corrected for the number of comparisons: of figures that nothing changes, one in twenty would seem changed). Of "
    "'First pair forgotten', less is better. A part helps or hurts where an interval excludes 0."
)


def judged(board: Board, task: str) -> Iterator[tuple[Part, str]]:
    """Each part that was measured on a task, and what was shown of it."""
    for part in PARTS:
        found = differences(board, task, part)
        if any(value is not None for value in found.values()):
            yield part, shown(found)


def differences(board: Board, task: str, part: Part) -> dict[str, Interval | None]:
    """Figure to its difference."""
    return {name: board.difference(task, part.whole, part.without, name) for name in JUDGED}


def shown(found: dict[str, Interval | None]) -> str:
    """``helps (unseen pairs)``, ``hurts (...)``, both, or ``no difference``; ``one seed`` tells nothing."""
    if all(value is None or value.half_width is None for value in found.values()):
        return ONE_SEED
    sure = {name: value for name in COUNTED if (value := found[name]) is not None and value.excludes_zero}
    words = []
    for verb, good in (("helps", True), ("hurts", False)):
        names = [SCORES[n].title.lower() for n, v in sure.items() if ((v.mean > 0) is (n != "forgetting")) is good]
        words += [f"{verb} ({listed(names)})"] if names else []
    return ", ".join(words) or "no difference"


def parts_text(board: Board) -> str:
    """A line a part and setting, as a list."""
    lines: dict[str, list[str]] = {}
    for task in board.tasks:
        for part, word in judged(board, task):
            lines.setdefault(f"{part.about}, {part.setting}", []).append(f"{task}: {word}")
    said = [f"- {about}: {'; '.join(words)}." for about, words in lines.items()]
    return "\n".join([*said, *(f"- {one}" for one in growth(board))])


def growth(board: Board) -> Iterator[str]:
    """How often codebooks that may grow did."""
    for task in board.tasks:
        for name in ("comet", "comet-random"):
            runs = board.runs(task, name)
            grew = sum(any(stage.codes_added for stage in one.stages[1:]) for one in runs.values())
            if runs:
                yield f"The codebook of {name} grew in {grew} of {len(runs)} runs on {task}."
