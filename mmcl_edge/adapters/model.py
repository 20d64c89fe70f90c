"""The trainable model on frozen backbones: encoder (adapters), fusion, head; its tensors as a pack stores them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmcl_edge.adapters.adapter import CrossModalityAdapter
from mmcl_edge.adapters.encoder import Encoder, InlineEncoder, LadderEncoder
from mmcl_edge.adapters.experts import ExpertInfo
from mmcl_edge.adapters.fusion import Fusion
from mmcl_edge.adapters.heads import GrowingHead
from mmcl_edge.adapters.router import Gate
from mmcl_edge.config import AdapterConfig, HeadConfig, Voters
from mmcl_edge.errors import PackError
from mmcl_edge.types import Backbone


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """What a forward pass gives.

    Attributes:
        logits: ``(B, C)``, the mean of ``votes``.
        joint: joint representation ``(B, J)``.
        z: modality representation by name, ``(B, J)``.
        present: modality to ``(B,)`` bool.
        gates: one per block.
        votes: logits ``(B, C)`` of the joint representation (``joint``) and, where every modality votes, of each; a
            modality's count where it is present.
    """

    logits: Tensor
    joint: Tensor
    z: dict[str, Tensor]
    present: dict[str, Tensor]
    gates: tuple[Gate, ...]
    votes: dict[str, Tensor]


JOINT = "joint"
"""The joint representation's vote."""


class Model(nn.Module):
    """Encoder, fusion and growing head. Backbones are not submodules: they hold no trainable tensor.

    With ``voters`` ``all`` the head reads every modality's representation beside the joint one, and the logits are the
    mean over those present. Alignment has brought them into one space, so one head serves all.

    ``fusion`` is a ``Fusion``, or another module with its call: features and presence to ``z`` and the joint.
    """

    def __init__(self, encoder: Encoder, fusion: nn.Module, head: GrowingHead, *, voters: Voters = "joint") -> None:
        super().__init__()
        self.voters = voters
        self.encoder = encoder
        self.fusion = fusion
        self.head = head

    @property
    def blocks(self) -> list[CrossModalityAdapter]:
        """The adapter of every block."""
        return [block for block in self.encoder.adapters if isinstance(block, CrossModalityAdapter)]

    def forward(self, batch: Any, generator: torch.Generator | None = None) -> ModelOutput:
        """Encode, fuse and classify a batch of the encoder's kind; a generator turns training noise on."""
        encoding = self.encoder(batch, generator)
        z, joint = self.fusion(encoding.pooled, encoding.present)
        votes = {JOINT: self.head(joint)}
        if self.voters == "all":
            votes |= {name: self.head(value) for name, value in z.items()}
        return ModelOutput(_mean_vote(votes, encoding.present), joint, z, encoding.present, encoding.gates, votes)

    def fix(self) -> None:
        """No expert will learn any more: predicting may take shortcuts."""
        for block in self.blocks:
            block.bank.fix()

    def experts(self) -> list[ExpertInfo]:
        """Every expert's identity, block by block."""
        return [info for block in self.blocks for info in block.bank.infos]


def _mean_vote(votes: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
    """Mean over the joint vote and those of the modalities that a sample has: ``(B, C)``."""
    total, count = votes[JOINT], torch.ones(len(votes[JOINT]), 1, device=votes[JOINT].device)
    if len(votes) == 1:
        return total
    for name in (name for name in votes if name != JOINT):
        here = present[name][:, None].to(total.dtype)
        total, count = total + here * votes[name], count + here
    return total / count


def build_model(
    adapter: AdapterConfig, head: HeadConfig, backbones: Mapping[str, Backbone], *, generator: torch.Generator | None
) -> Model:
    """A new model for ``backbones`` with a head of no classes.

    Args:
        adapter: shape of the adapters.
        head: shape of fusion and head.
        backbones: modality to backbone; all of one depth.
        generator: draws the initial weights; ``None`` builds without experts, for ``load_tensors``.
    """
    depth = min(one.depth for one in backbones.values())
    adapters = nn.ModuleList([_build_adapter(adapter, backbones, block) for block in range(depth)])
    encoder = _build_encoder(adapter, backbones, adapters)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0 if generator is None else int(torch.randint(2**31, (), generator=generator)))
        fusion = Fusion(encoder.pooled_dims, joint_dim=head.joint_dim, hidden=head.fusion_hidden)
    own = GrowingHead(head.joint_dim, kind=head.classifier, scale=head.cosine_scale)
    model = Model(encoder, fusion, own, voters=head.voters)
    if generator is not None:
        for block in model.blocks:
            block.grow(adapter.experts, generator, zero_gate=False)
    return model


def _build_encoder(
    config: AdapterConfig, backbones: Mapping[str, Backbone], adapters: nn.ModuleList
) -> InlineEncoder | LadderEncoder:
    every = config.features == "all"
    if config.placement == "ladder":
        return LadderEncoder(backbones, adapters, dim=config.ladder_dim, tokens=config.ladder_tokens, all_blocks=every)
    return InlineEncoder(backbones, adapters, map_grid=config.map_grid, input_norm=config.input_norm, all_blocks=every)


def _build_adapter(config: AdapterConfig, backbones: Mapping[str, Backbone], block: int) -> CrossModalityAdapter:
    if config.placement == "inline":
        dims = InlineEncoder.dims(backbones, block)
    else:
        dims = LadderEncoder.dims(backbones, block, dim=config.ladder_dim)
    return CrossModalityAdapter(
        dims,
        block=block,
        rank=config.rank,
        active=config.active_experts,
        attention=config.attention,
        latents=config.latents,
        scale=config.scale,
        noise=config.router_noise,
    )


def model_tensors(model: Model) -> dict[str, Tensor]:
    """Everything a pack stores, by name; experts one by one under ``blocks.<b>.experts.<id>.``."""
    tensors = {f"fusion.{name}": value for name, value in model.fusion.state_dict().items()}
    tensors |= {f"head.{name}": value for name, value in model.head.state_dict().items()}
    for number, block in enumerate(model.blocks):
        tensors[f"blocks.{number}.router"] = block.router.weight
        for position, info in enumerate(block.bank.infos):
            prefix = f"blocks.{number}.experts.{info.id}."
            tensors |= {prefix + name: value for name, value in block.bank.tensors(position).items()}
    return {name: value.detach().clone().contiguous() for name, value in tensors.items()}


def load_tensors(model: Model, tensors: Mapping[str, Tensor], experts: Sequence[Sequence[ExpertInfo]]) -> None:
    """Fill a model built without experts with what ``model_tensors`` gave.

    Args:
        model: of the same configuration and backbones.
        tensors: by name.
        experts: identities, one sequence a block, frozen ones first.

    Raises:
        PackError: a tensor is missing, left over, or of another shape.
    """
    rest = dict(tensors)
    for number, (block, infos) in enumerate(zip(model.blocks, experts, strict=True)):
        block.router.weight = nn.Parameter(_take(rest, f"blocks.{number}.router", (len(infos), None)))
        loaded = [_take_expert(rest, f"blocks.{number}.experts.{info.id}.", block) for info in infos]
        block.bank.load(infos, loaded)
        block.reset_usage()
    classes = rest["head.weight"].shape[0] if "head.weight" in rest else 0
    model.head.grow(classes - model.head.classes, torch.Generator())
    for prefix, module in (("fusion.", model.fusion), ("head.", model.head)):
        state = {name: _take(rest, prefix + name, value.shape) for name, value in module.state_dict().items()}
        module.load_state_dict(state)
    if rest:
        raise PackError(
            f"The pack holds tensors that its configuration does not know: {sorted(rest)[:3]}; export it anew."
        )


def _take_expert(rest: dict[str, Tensor], prefix: str, block: CrossModalityAdapter) -> dict[str, Tensor]:
    return {
        f"{name}.{part}": _take(rest, f"{prefix}{name}.{part}", shape)
        for name in block.bank.stacks
        for part, shape in block.bank.stack_of(name).shapes.items()
    }


def _take(rest: dict[str, Tensor], name: str, shape: Sequence[int | None]) -> Tensor:
    value = rest.pop(name, None)
    if value is None:
        raise PackError(f"The pack should hold the tensor {name!r}, but does not; export it anew.")
    if len(value.shape) != len(shape) or any(b is not None and a != b for a, b in zip(value.shape, shape, strict=True)):
        raise PackError(
            f"The pack's tensor {name!r} should have shape {tuple(shape)}, but has {tuple(value.shape)}: "
            "it was made for another bundle or configuration."
        )
    return value.clone()
