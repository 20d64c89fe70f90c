"""Between what was learned and a pack: what is stored, and how it is built again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mmcl_edge.adapters.experts import ExpertInfo
from mmcl_edge.adapters.model import Model, build_model, load_tensors, model_tensors
from mmcl_edge.config import MethodConfig
from mmcl_edge.errors import PackError
from mmcl_edge.learners.analytic.addends import Addend, stored
from mmcl_edge.learners.analytic.model import AnalyticModel
from mmcl_edge.learners.comet.storage import StoredSpace
from mmcl_edge.learners.confidence import Calibrated
from mmcl_edge.learners.familiarity import Familiarity
from mmcl_edge.packs import Expert, Pack, PackContents, child_of, next_version
from mmcl_edge.packs.confidence import PREFIX
from mmcl_edge.packs.tensors import SPACE_PREFIX
from mmcl_edge.types import Backbone

CALIBRATE = "calibrate"
"""Method of a parent whose model is the child's, calibrated anew."""


def predictor_from_pack(pack: Pack, backbones: Mapping[str, Backbone]) -> Model | AnalyticModel | None:
    """What predicts with a pack, whichever learner made it; ``None`` where it has no classes.

    Raises:
        PackError: its tensors do not fit its configuration or the backbones.
    """
    if pack.config.learner == "none":
        return None
    return AnalyticModel(pack, backbones) if pack.config.learner == "analytic" else model_from_pack(pack, backbones)


def model_from_pack(pack: Pack, backbones: Mapping[str, Backbone]) -> Model:
    """The model of a pack that was trained by gradient, ready to learn on or to predict.

    Raises:
        PackError: its tensors do not fit its configuration or the backbones; or its learner has no such model.
    """
    config = pack.config
    if config.learner == "none":
        raise PackError(
            f"The pack {pack.digest[:16]}... should hold adapters, but holds a shared space alone; use one that "
            "learned classes by 'mmcl-edge adapt --task NAME'."
        )
    if config.learner != "mmcl":
        raise PackError(
            f"The pack {pack.digest[:16]}... should hold adapters, but was made by the learner '{config.learner}', "
            "which has none; use one made by 'mmcl-edge adapt --learner mmcl'."
        )
    model = build_model(config.adapter, config.head, backbones, generator=None)
    experts: list[list[ExpertInfo]] = [[] for _ in model.blocks]
    for expert in pack.manifest.experts:
        if expert.block >= len(experts):
            raise PackError(
                f"The pack has an expert for block {expert.block}, but the bundle has {len(experts)} blocks."
            )
        experts[expert.block].append(ExpertInfo(expert.id, expert.frozen, expert.owner))
    others = (PREFIX, SPACE_PREFIX)
    tensors = {name: value for name, value in pack.tensors().items() if not name.startswith(others)}
    load_tensors(model, tensors, experts)
    return model


def contents_of(
    learned: Model | Sequence[Addend] | None,
    config: MethodConfig,
    *,
    bundle_digest: str,
    labels: Sequence[str],
    parents: Sequence[Pack],
    sample_counts: Mapping[str, int],
    experiences: Sequence[str],
    evaluation: Mapping[str, Any],
    calibrated: Calibrated | None = None,
    space: StoredSpace | None = None,
) -> PackContents:
    """What ``write_pack`` needs to store what was learned; the other arguments are the fields of ``PackContents``.

    Args:
        learned: what answers over classes: a model, sums, or nothing.
        config: of its learner; ``space`` brings its own.
        bundle_digest: that all of it belongs to.
        labels: class names.
        parents: packs it was learned from.
        sample_counts: by class.
        experiences: names of what was learned.
        evaluation: figures.
        calibrated: how reliable the answers are.
        space: the shared space, if there is one.
    """
    module: dict[str, Any]
    if isinstance(learned, Model):
        tensors, module, experts = model_tensors(learned), {}, _experts(learned)
    elif learned is not None:
        (tensors, module), experts = stored(learned), ()
    else:
        tensors, module, experts = {}, {}, ()
    contents = PackContents(
        tensors=tensors | (calibrated.tensors() if calibrated else {}),
        config=config.model_copy(update={"space": None}),
        bundle_digest=bundle_digest,
        labels=tuple(labels),
        experts=experts,
        parents=tuple(pack.as_parent() for pack in parents),
        version=next_version(list(parents)),
        sample_counts=dict(sample_counts),
        experiences=tuple(experiences),
        module=module,
        evaluation=dict(evaluation),
        confidence=calibrated.confidence if calibrated else None,
    )
    return contents if space is None else beside(contents, space)


def beside(contents: PackContents, space: StoredSpace, **figures: Any) -> PackContents:
    """``contents`` with ``space`` beside its classes, in place of any that it has; ``figures`` join its evaluation."""
    classes = {name: value for name, value in contents.tensors.items() if not name.startswith(SPACE_PREFIX)}
    return replace(
        contents,
        tensors={**classes, **space.tensors_in_pack()},
        module={**contents.module, **space.module()},
        config=contents.config.model_copy(update={"space": space.config}),
        evaluation={**contents.evaluation, **figures},
    )


def alone(space: StoredSpace, *, bundle_digest: str, **figures: Any) -> PackContents:
    """A pack that holds ``space`` and no classes."""
    nothing = PackContents(tensors={}, config=MethodConfig(learner="none"), bundle_digest=bundle_digest)
    return beside(nothing, space, **figures)


def _experts(model: Model) -> tuple[Expert, ...]:
    return tuple(
        Expert(id=info.id, block=number, frozen=info.frozen, owner=info.owner)
        for number, block in enumerate(model.blocks)
        for info in block.bank.infos
    )


def familiarity_of(pack: Pack) -> Familiarity | None:
    """What a pack says about where its classes lie; ``None`` where its unknown score needs none, or it has none.

    Raises:
        PackError: its tensors do not fit its labels and configuration.
    """
    confidence = pack.manifest.confidence
    if confidence is None or confidence.unknown.kind == "logit":
        return None
    width = pack.config.head.joint_dim
    return Familiarity.load(pack.tensors(), classes=len(pack.manifest.labels), width=width)


def recalibrated(pack: Pack, calibrated: Calibrated) -> PackContents:
    """The contents of ``pack`` with another calibration: a child of it with the same model."""
    model = {name: value for name, value in pack.tensors().items() if not name.startswith(PREFIX)}
    return child_of(pack, model | calibrated.tensors(), method=CALIBRATE, confidence=calibrated.confidence)
