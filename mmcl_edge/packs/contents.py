"""What a pack is made of, before it is a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmcl_edge.bundle import FileEntry
from mmcl_edge.config import MethodConfig
from mmcl_edge.packs.confidence import Confidence
from mmcl_edge.packs.manifest import MINIMUM_RUNTIME, Expert, Label, PackManifest, Parent
from mmcl_edge.packs.names import label_id
from mmcl_edge.packs.reader import Pack, next_version

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False, kw_only=True)
class PackContents:
    """Everything ``write_pack`` needs. Mappings hold plain JSON values, finite and free of times and paths.

    Attributes:
        tensors: names such as ``blocks.0.experts.e0.audio.down`` to tensors of any accepted dtype; arrays
            of numpy are fine, if all are.
        config: the method's configuration.
        bundle_digest: the bundle that the tensors belong to.
        labels: class names (NFC) in the order of the head's rows.
        experts: id, block, frozen flag and owner of every expert.
        parents: packs this one was made from (``Pack.as_parent``).
        version: ``next_version(parents)``; 1 without parents.
        sample_counts: class name to the number of training samples seen.
        experiences: names of what was learned, in order.
        privacy: privacy settings in force while learning.
        minimum_runtime: oldest release that can use it.
        module: what else is needed to rebuild the module; stored in ``adapter_config.json``.
        evaluation: figures for ``eval.json``.
        confidence: how reliable its answers are, if that was measured.
    """

    tensors: Mapping[str, torch.Tensor]
    config: MethodConfig
    bundle_digest: str
    labels: tuple[str, ...] = ()
    experts: tuple[Expert, ...] = ()
    parents: tuple[Parent, ...] = ()
    version: int = 1
    sample_counts: Mapping[str, int] = field(default_factory=dict)
    experiences: tuple[str, ...] = ()
    privacy: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    minimum_runtime: str = MINIMUM_RUNTIME
    module: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    confidence: Confidence | None = None

    def manifest(self, files: tuple[FileEntry, ...]) -> PackManifest:
        """The manifest over ``files``.

        Raises:
            pydantic.ValidationError: a field breaks a rule of the schema.
        """
        return PackManifest(
            bundle_digest=self.bundle_digest,
            parents=self.parents,
            version=self.version,
            labels=tuple(Label(id=label_id(name), name=name, index=index) for index, name in enumerate(self.labels)),
            experts=self.experts,
            sample_counts=dict(self.sample_counts),
            experiences=self.experiences,
            privacy=dict(self.privacy),
            minimum_runtime=self.minimum_runtime,
            files=files,
            confidence=self.confidence,
        )


def child_of(
    pack: Pack, tensors: Mapping[str, torch.Tensor], *, method: str, confidence: Confidence | None, **figures: Any
) -> PackContents:
    """``pack`` with other tensors or another calibration: its only child by ``method``, equal in all else.

    Args:
        pack: the parent.
        tensors: all tensors of the child.
        method: how it was made.
        confidence: of the child.
        figures: added to the parent's evaluation.
    """
    manifest = pack.manifest
    return PackContents(
        tensors=tensors,
        config=pack.config,
        bundle_digest=manifest.bundle_digest,
        labels=manifest.label_names,
        experts=manifest.experts,
        parents=(pack.as_parent(method=method),),
        version=next_version([pack]),
        sample_counts=manifest.sample_counts,
        experiences=manifest.experiences,
        privacy=manifest.privacy,
        minimum_runtime=manifest.minimum_runtime,
        module=pack.module,
        evaluation={**pack.evaluation, **figures},
        confidence=confidence,
    )
