"""Merging packs: what many devices learned, as one pack; nothing here needs torch, but where sums are added."""

from mmcl_edge.fleet.merge.engine import merge_packs
from mmcl_edge.fleet.merge.judging import Counts, Evaluate, Judgement
from mmcl_edge.fleet.merge.methods import METHODS, MergeOptions
from mmcl_edge.fleet.merge.report import MergeRejectedError, MergeReport

__all__ = [
    "METHODS",
    "Counts",
    "Evaluate",
    "Judgement",
    "MergeOptions",
    "MergeRejectedError",
    "MergeReport",
    "merge_packs",
]
