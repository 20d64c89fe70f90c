"""Experts of one block, stacked so that no Python loop runs over them.

Expert ``e`` of modality ``m`` owns ``down (R, D_m)``, ``bias (R,)``, ``up (R, D'_m)`` and, for latent
attention, ``latents (L, R)``. Frozen experts are buffers (no gradient, no optimizer state, bit-identical for
ever), the others parameters; in every stack the frozen ones come first. A frozen expert is immutable, so its
id is the digest of its weights: the same expert has the same name on every device.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

PARTS = ("down", "bias", "up", "latents")
"""Names of an expert's tensors, in the order its digest reads them."""


@dataclass(frozen=True, slots=True)
class ExpertInfo:
    """Identity of one expert: its id, whether it is frozen, and the experience that froze it."""

    id: str
    frozen: bool
    owner: str | None


class ExpertStack(nn.Module):
    """One modality's weights of all experts of a block. ``stack(part)`` is ``(E, ...)``, frozen first."""

    def __init__(self, dim_in: int, dim_out: int, *, rank: int, latents: int) -> None:
        super().__init__()
        self.shapes = {"down": (rank, dim_in), "bias": (rank,), "up": (rank, dim_out)}
        if latents:
            self.shapes["latents"] = (latents, rank)
        for part, shape in self.shapes.items():
            self.register_buffer(f"frozen_{part}", torch.empty(0, *shape))
            self.register_parameter(part, nn.Parameter(torch.empty(0, *shape)))

    def stack(self, part: str) -> Tensor:
        """``(E, ...)``: the frozen experts, then the trainable ones."""
        frozen, trainable = self.get_buffer(f"frozen_{part}"), self.get_parameter(part)
        if not len(trainable):
            return frozen
        return torch.cat([frozen, trainable]) if len(frozen) else trainable

    def rows(self, part: str, index: Tensor) -> Tensor:
        """Weights of the experts ``index`` ``(n,)``, ``(n, ...)``; no gradient is ever formed for a frozen one."""
        frozen, trainable = self.get_buffer(f"frozen_{part}"), self.get_parameter(part)
        known = len(frozen)
        if not known or not len(trainable):
            return (frozen if known else trainable).index_select(0, index)
        own = (index >= known).nonzero()[:, 0]  # places whose expert still learns
        values = frozen.index_select(0, index.clamp(max=known - 1))
        return values.index_copy(0, own, trainable.index_select(0, index[own] - known)) if len(own) else values

    def put(self, values: Mapping[str, Tensor], frozen: int) -> None:
        """Replace all experts: ``values[part]`` is ``(E, ...)``, the first ``frozen`` of them frozen."""
        for part, value in values.items():
            value = value.detach().clone()
            self.register_buffer(f"frozen_{part}", value[:frozen].contiguous())
            self.register_parameter(part, nn.Parameter(value[frozen:].contiguous()))

    def fresh(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """``count`` new experts: down Kaiming-uniform(a=sqrt 5), up and bias zero, latents small normal.

        The zero ``up`` makes a new expert a no-op ("lora" initialisation of MoE-Adapters4CL).
        """
        values = {part: torch.zeros(count, *shape) for part, shape in self.shapes.items()}
        bound = 1.0 / math.sqrt(self.shapes["down"][1])
        values["down"].uniform_(-bound, bound, generator=generator)
        if "latents" in values:
            values["latents"].normal_(std=0.02, generator=generator)
        return values

    def all(self) -> dict[str, Tensor]:
        """Every part as ``(E, ...)``, detached."""
        return {part: self.stack(part).detach() for part in self.shapes}


class ExpertBank(nn.Module):
    """All experts of one block over all modalities.

    Args:
        dims: modality to ``(D_m, D'_m)``, widths of the block's input and output.
        rank: R.
        latents: L, or 0 for other kinds of attention.
        block: the block's index (part of a trainable expert's id).
    """

    def __init__(self, dims: Mapping[str, tuple[int, int]], *, rank: int, latents: int, block: int) -> None:
        super().__init__()
        self.block = block
        self.infos: tuple[ExpertInfo, ...] = ()
        self.stacks = nn.ModuleDict(
            {name: ExpertStack(d_in, d_out, rank=rank, latents=latents) for name, (d_in, d_out) in dims.items()}
        )

    def __len__(self) -> int:
        return len(self.infos)

    @property
    def frozen(self) -> int:
        """How many experts are frozen (they come first)."""
        return sum(info.frozen for info in self.infos)

    def stack_of(self, modality: str) -> ExpertStack:
        """The stack of one modality."""
        stack = self.stacks[modality]
        assert isinstance(stack, ExpertStack)
        return stack

    def gather(self, modality: str, part: str, index: Tensor) -> Tensor:
        """Weights of the chosen experts: index ``(B, K)`` to ``(B, K, ...)``."""
        values = self.stack_of(modality).rows(part, index.flatten())
        return values.view(*index.shape, *values.shape[1:])

    def append(self, count: int, generator: torch.Generator) -> None:
        """Add ``count`` fresh trainable experts at the end."""
        for stack in map(self.stack_of, self.stacks):
            new, old = stack.fresh(count, generator), stack.all()
            stack.put({part: torch.cat([old[part], new[part]]) for part in old}, self.frozen)
        taken = {info.id for info in self.infos}
        names = (f"b{self.block}-fresh-{number}" for number in range(len(taken) + count))
        free = [name for name in names if name not in taken][:count]
        self.infos += tuple(ExpertInfo(name, frozen=False, owner=None) for name in free)

    def freeze(self, chosen: Sequence[int], owner: str) -> list[int]:
        """Freeze the trainable experts ``chosen`` (positions) for good.

        Returns:
            The new order: old positions in their new sequence, by which router rows must be reordered.
        """
        head = list(range(self.frozen))
        order = head + sorted(chosen) + [i for i in range(len(self)) if i not in head and i not in chosen]
        frozen = len(head) + len(chosen)
        for stack in map(self.stack_of, self.stacks):
            stack.put({part: value[order] for part, value in stack.all().items()}, frozen)
        moved = [self.infos[i] for i in order]
        new = [ExpertInfo(self._digest(i), True, owner) for i in range(len(head), frozen)]
        self.infos = (*moved[: len(head)], *new, *moved[frozen:])
        return order

    def tensors(self, position: int) -> dict[str, Tensor]:
        """One expert's tensors: ``<modality>.<part>`` to value."""
        return {
            f"{name}.{part}": value[position].clone()
            for name in self.stacks
            for part, value in self.stack_of(name).all().items()
        }

    def load(self, infos: Sequence[ExpertInfo], tensors: Sequence[Mapping[str, Tensor]]) -> None:
        """Replace all experts by ``tensors`` (as ``tensors()`` gave them); frozen ones must come first."""
        self.infos = tuple(infos)
        for name in self.stacks:
            stack = self.stack_of(name)
            values = {
                part: torch.stack([one[f"{name}.{part}"] for one in tensors]) if tensors else stack.all()[part]
                for part in stack.shapes
            }
            stack.put(values, self.frozen)

    def fix(self) -> None:
        """Move every expert among the buffers, for a model that will only predict: stacks need no joining."""
        for stack in map(self.stack_of, self.stacks):
            stack.put(stack.all(), len(self))

    def _digest(self, position: int) -> str:
        digest = hashlib.sha256()
        for name, value in sorted(self.tensors(position).items()):
            digest.update(name.encode() + value.contiguous().numpy().tobytes())
        return f"b{self.block}-{digest.hexdigest()[:12]}"
