"""What a batch is made of: current samples, then each draw of exemplars."""

from __future__ import annotations

from torch import Tensor

from mmcl_edge.learners.experience_run import ExperienceRun


def parts(run: ExperienceRun, index: Tensor) -> list[slice]:
    """Where a batch holds the current samples, and then each draw of exemplars, if there are any.

    Args:
        run: made the batch.
        index: ``(B,)``, the batch's samples.
    """
    own = int((index < run.current).sum())
    if own == len(index):
        return [slice(0, own)]
    size = (len(index) - own) // run.replay_draws
    return [slice(0, own), *(slice(start, start + size) for start in range(own, len(index), size))]
