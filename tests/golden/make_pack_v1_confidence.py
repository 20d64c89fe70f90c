"""Makes ``tests/golden/pack_v1_confidence``: a pack of schema 1 that was calibrated.

Run ``python -m tests.golden.make_pack_v1_confidence --update`` to make it again; see ``make_pack_v1`` for when.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from mmcl_edge.packs import Confidence, PackContents, UnknownRule
from tests.golden.make_pack_v1 import golden_contents, update

FOLDER = Path(__file__).parent / "pack_v1_confidence"


def calibrated_contents() -> PackContents:
    """The golden pack with every field of its confidence."""
    contents = golden_contents()
    confidence = Confidence(
        temperature=0.5,
        unknown=UnknownRule(
            kind="distance-and-logit",
            logit_weight=0.75,
            distance_weight=0.0625,
            offset=-1.5,
            threshold=-2.25,
            false_alarm_rate=0.1,
        ),
        scores=(0.0, 0.015625, 0.25, 1.0),
        classes=3,
        ece_before=0.125,
        ece_after=0.03125,
    )
    tensors = {
        "confidence.means": torch.full((3, 256), 0.0625),
        "confidence.directions": torch.full((256, 2), 0.5),
        "confidence.precision": torch.tensor(8.0),
    }
    return dataclasses.replace(contents, tensors={**contents.tensors, **tensors}, confidence=confidence)


if __name__ == "__main__":
    update(FOLDER, calibrated_contents())
