"""Between a model and a pack: what is stored, and how it is built again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmcl_edge.adapters.experts import ExpertInfo
from mmcl_edge.adapters.model import Model, build_model, load_tensors, model_tensors
from mmcl_edge.config import MethodConfig
from mmcl_edge.errors import PackError
from mmcl_edge.packs import Expert, Pack, PackContents, next_version
from mmcl_edge.types import Backbone


def model_from_pack(pack: Pack, backbones: Mapping[str, Backbone]) -> Model:
    """The model of a pack on the bundle's backbones, ready to learn on or to predict.

    Raises:
        PackError: its tensors do not fit its configuration or the backbones.
    """
    config = pack.config
    model = build_model(config.adapter, config.head, backbones, generator=None)
    experts: list[list[ExpertInfo]] = [[] for _ in model.blocks]
    for expert in pack.manifest.experts:
        if expert.block >= len(experts):
            raise PackError(
                f"The pack has an expert for block {expert.block}, but the bundle has {len(experts)} blocks."
            )
        experts[expert.block].append(ExpertInfo(expert.id, expert.frozen, expert.owner))
    load_tensors(model, pack.tensors(), experts)
    return model


def contents_of(
    model: Model,
    config: MethodConfig,
    *,
    bundle_digest: str,
    labels: Sequence[str],
    parents: Sequence[Pack],
    sample_counts: Mapping[str, int],
    experiences: Sequence[str],
    evaluation: Mapping[str, Any],
) -> PackContents:
    """What ``write_pack`` needs to store ``model``; the arguments are the fields of ``PackContents``."""
    experts = tuple(
        Expert(id=info.id, block=number, frozen=info.frozen, owner=info.owner)
        for number, block in enumerate(model.blocks)
        for info in block.bank.infos
    )
    return PackContents(
        tensors=model_tensors(model),
        config=config,
        bundle_digest=bundle_digest,
        labels=tuple(labels),
        experts=experts,
        parents=tuple(pack.as_parent() for pack in parents),
        version=next_version(list(parents)),
        sample_counts=dict(sample_counts),
        experiences=tuple(experiences),
        evaluation=dict(evaluation),
    )
