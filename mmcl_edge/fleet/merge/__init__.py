"""Merging packs: what many devices learned, as one pack; nothing here needs torch, but for sums and shared spaces."""

from mmcl_edge.fleet.merge.engine import merge_packs
from mmcl_edge.fleet.merge.judging import Counts, Evaluate, Judgement
from mmcl_edge.fleet.merge.methods import METHODS, MergeOptions
from mmcl_edge.fleet.merge.pair_judging import EvaluatePairs, PairJudgement
from mmcl_edge.fleet.merge.report import MergeRejectedError, MergeReport

__all__ = [
    "METHODS",
    "Counts",
    "Evaluate",
    "EvaluatePairs",
    "Judgement",
    "MergeOptions",
    "MergeRejectedError",
    "MergeReport",
    "PairJudgement",
    "merge_packs",
]
