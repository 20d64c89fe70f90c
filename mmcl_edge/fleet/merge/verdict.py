"""What the judgements of a merge become: figures in ``eval.json``, or the sentence that refuses the result."""

from __future__ import annotations

from typing import Any

from mmcl_edge.fleet.merge.judging import Judgement
from mmcl_edge.fleet.merge.pair_judging import PairJudgement


def evaluation(method: str, judgement: Judgement | None, pairs: PairJudgement | None) -> dict[str, Any]:
    """What ``eval.json`` of the result says: figures of all classes, of each, and of pairs as ``adapt`` gives them."""
    found: dict[str, Any] = {"merge_method": method}
    if judgement is not None:
        found["accuracy"] = round(judgement.accuracy, 6)
        found["largest_loss"] = round(judgement.largest_loss, 6)
        found["classes"] = {
            one.label: {
                "samples": one.samples,
                "before": None if one.before is None else round(one.before, 6),
                "after": round(one.after, 6),
            }
            for one in judgement.classes
        }
    if pairs is not None:
        from mmcl_edge.runtime.holdout import FIGURE

        found |= {FIGURE + name: round(value, 4) for name, value in sorted(pairs.after.items())}
    return found


def refusal(judgement: Judgement | None, pairs: PairJudgement | None, tolerance: float) -> str:
    """The sentence on a result of which one of the two lost more than ``tolerance``."""
    if judgement is not None and judgement.largest_loss > tolerance:
        worst = max(judgement.parents, key=lambda parent: parent.loss)
        return (
            f"The merged pack was refused: on the classes of {worst.digest[:16]}... it is right "
            f"{100 * worst.after:.1f} %, and that pack alone {100 * worst.before:.1f} %, a loss above the tolerance of "
            f"{100 * tolerance:g} points. Nothing was written; try --method auto, leave out an outlier, or raise "
            "--tolerance."
        )
    assert pairs is not None
    lost = pairs.worst
    assert lost is not None
    return (
        f"The merged pack was refused: it finds pairs of {lost.modality} with a mean reciprocal rank of "
        f"{lost.after:.3f}, and {lost.digest[:16]}... alone with {lost.before:.3f}, a loss above the tolerance of "
        f"{tolerance:g}. Nothing was written; leave out a pack, or raise --tolerance."
    )
