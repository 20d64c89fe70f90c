"""Makes ``tests/golden/pack_v1_space``: a pack of schema 1 that holds a shared space beside its classes.

Run ``python -m tests.golden.make_pack_v1_space --update`` to make it again; see ``make_pack_v1`` for when. The space is
learned, so another machine may get another last bit of it; the golden pins how it is stored and what it answers.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from mmcl_edge.learners.comet.learner import CometLearner
from mmcl_edge.learners.comet.storage import StoredSpace
from mmcl_edge.packs import PackContents
from tests.crossmodal import SMALL, host, stage
from tests.golden.make_pack_v1 import golden_contents, update

FOLDER = Path(__file__).parent / "pack_v1_space"
SETTINGS = SMALL.model_copy(update={"front_dim": 12})


def learned_space() -> StoredSpace:
    """A space that learned pictures, then speech, told by texts."""
    learner = CometLearner(host(), SETTINGS)
    for modality in ("image", "speech"):
        learner.observe(stage(modality))
    return StoredSpace.of(learner, stages=("pictures", "voices"), pairs={"image": 60, "speech": 60})


def contents_with(space: StoredSpace) -> PackContents:
    """The golden pack with ``space`` beside its classes."""
    contents = golden_contents()
    return dataclasses.replace(
        contents,
        tensors={**contents.tensors, **space.tensors_in_pack()},
        module={**contents.module, **space.module()},
        config=contents.config.model_copy(update={"space": space.config}),
        evaluation={**contents.evaluation, "retrieval_image": 0.75},
    )


if __name__ == "__main__":
    update(FOLDER, contents_with(learned_space()))
