"""Where prompts come from: the pools of L2P, DualPrompt and CODA-Prompt, for tokens of any width.

A *site* is a place in a backbone where prompt tokens enter, with the width of the tokens there. All sites share one
query: what the frozen backbones say of a sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional


class PromptPool(Protocol):
    """What the encoder and the learner need of a pool (an ``nn.Module``)."""

    def select(self, query: Tensor, *, training: bool) -> dict[str, Tensor]:
        """Prompt tokens ``(B, P, D)`` by site for queries ``(B, Q)``."""
        ...

    def attraction(self, query: Tensor) -> Tensor | None:
        """How alike queries ``(B, Q)`` and the keys they train are, a mean; ``None`` where keys learn otherwise."""
        ...

    def grow(self, generator: torch.Generator) -> None:
        """Another experience begins."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Every parameter by name."""
        ...


def cosine(one: Tensor, other: Tensor) -> Tensor:
    """Cosines ``(B, n)`` of vectors ``(B, Q)`` and ``(n, Q)``."""
    return functional.normalize(one, dim=-1) @ functional.normalize(other, dim=-1).T


class L2pPool(nn.Module):
    """L2P (Wang et al., CVPR 2022): the ``top`` prompts of a pool whose keys are most like the query (equation 3).

    Each sample has its own choice (the released code lets a batch vote, which would make answers depend on company).

    Args:
        sites: name to width.
        query: Q.
        size: prompts in the pool.
        length: tokens of one prompt.
        top: how many prompts serve one sample.
        generator: draws keys and prompts, uniform in [-1, 1] as released.
    """

    def __init__(
        self,
        sites: Mapping[str, int],
        query: int,
        *,
        generator: torch.Generator,
        size: int = 10,
        length: int = 5,
        top: int = 5,
    ) -> None:
        super().__init__()
        self.top = top
        self.keys = nn.Parameter(_uniform((size, query), generator))
        self.prompts = nn.ParameterDict(
            {s: nn.Parameter(_uniform((size, length, d), generator)) for s, d in sites.items()}
        )

    def select(self, query: Tensor, *, training: bool) -> dict[str, Tensor]:
        """See ``PromptPool``: ``top * length`` tokens, most similar prompt first."""
        index = cosine(query, self.keys).topk(self.top, dim=1).indices  # (B, top)
        return {site: prompts[index].flatten(1, 2) for site, prompts in self.prompts.items()}

    def attraction(self, query: Tensor) -> Tensor | None:
        """The sum of the chosen keys' cosines, mean over the batch."""
        return cosine(query, self.keys).topk(self.top, dim=1).values.sum(dim=1).mean()

    def grow(self, generator: torch.Generator) -> None:
        """The pool is one for all experiences."""


class DualPool(nn.Module):
    """DualPrompt (Wang et al., ECCV 2022): a general prompt, and an expert prompt with a key for each experience.

    In training every sample takes its experience's expert; afterwards the expert whose key is most like its query
    (equation 5). Experts of earlier experiences rest.

    Args:
        general: sites of the general prompt.
        expert: sites of the expert prompts.
        query: Q.
        generator: draws the general prompt, uniform in [-1, 1] as released.
        length: tokens of each prompt.
    """

    def __init__(
        self,
        general: Mapping[str, int],
        expert: Mapping[str, int],
        query: int,
        *,
        generator: torch.Generator,
        length: int = 5,
    ) -> None:
        super().__init__()
        self.sites, self.query, self.length = dict(expert), query, length
        self.general = nn.ParameterDict({s: nn.Parameter(_uniform((length, d), generator)) for s, d in general.items()})
        self.experts = nn.ModuleList()
        self.keys = nn.ParameterList()

    def select(self, query: Tensor, *, training: bool) -> dict[str, Tensor]:
        """See ``PromptPool``."""
        last = torch.full((len(query),), len(self.keys) - 1)
        index = last if training else cosine(query, torch.stack(list(self.keys))).argmax(dim=1)
        shared = {site: prompt.expand(len(query), -1, -1) for site, prompt in self.general.items()}
        return shared | {site: torch.stack([one[site] for one in self.experts])[index] for site in self.sites}  # type: ignore[index]

    def attraction(self, query: Tensor) -> Tensor | None:
        """The cosine of queries and the current experience's key."""
        return cosine(query, self.keys[-1][None]).mean()

    def grow(self, generator: torch.Generator) -> None:
        """Rest the experts so far, and add one."""
        self.requires_grad_(False)
        self.general.requires_grad_(True)
        fresh = {s: nn.Parameter(_uniform((self.length, d), generator)) for s, d in self.sites.items()}
        self.experts.append(nn.ParameterDict(fresh))
        self.keys.append(nn.Parameter(_uniform((self.query,), generator)))


class CodaPool(nn.Module):
    r"""CODA-Prompt (Smith et al., CVPR 2023): a weighted sum of prompt components (equations 4 and 5).

    .. math:: \alpha_k = \cos(q \odot A_k, K_k), \qquad p = \sum_k \alpha_k P_k

    Each experience adds a slice of components, trains it alone, and starts it orthogonal to all that came before.

    Args:
        sites: name to width.
        query: Q.
        components: of one experience (the paper's 100 over its 10 experiences).
        length: tokens of a component; the paper's 8 are 4 keys and 4 values, and a token gives one of each.
    """

    def __init__(self, sites: Mapping[str, int], query: int, *, components: int = 10, length: int = 4) -> None:
        super().__init__()
        self.sites, self.query = dict(sites), query
        self.components, self.length = components, length
        self.slices = nn.ModuleList()

    def select(self, query: Tensor, *, training: bool) -> dict[str, Tensor]:
        """See ``PromptPool``."""
        return {site: self._sum(site, query) for site in self.sites}

    def weights(self, site: str, query: Tensor) -> Tensor:
        """The weights alpha ``(B, n)`` of queries ``(B, Q)`` over all n components so far."""
        attention, keys = self.part(site, "attention"), self.part(site, "key")  # (n, Q)
        return torch.cosine_similarity(query[:, None] * attention, keys[None], dim=-1)

    def part(self, site: str, name: str) -> Tensor:
        """All slices' ``prompt`` ``(n, P, D)``, ``key`` or ``attention`` ``(n, Q)``."""
        return torch.cat([one[f"{site}_{name}"] for one in self.slices])  # type: ignore[index]

    def attraction(self, query: Tensor) -> Tensor | None:
        """Keys learn through the weights they give."""
        return None

    def grow(self, generator: torch.Generator) -> None:
        """Rest the slices so far, and add one, orthogonal to them."""
        self.requires_grad_(False)
        fresh = {}
        for site, width in self.sites.items():
            for name, shape in (("prompt", (self.length, width)), ("key", (self.query,)), ("attention", (self.query,))):
                old = self.part(site, name).flatten(1) if len(self.slices) else torch.zeros(0, math.prod(shape))
                rows = orthogonal_rows(self.components, old, generator=generator)
                fresh[f"{site}_{name}"] = nn.Parameter(rows.view(self.components, *shape))
        self.slices.append(nn.ParameterDict(fresh))

    def _sum(self, site: str, query: Tensor) -> Tensor:
        return torch.einsum("bn,npd->bpd", self.weights(site, query), self.part(site, "prompt"))


def orthogonal_rows(count: int, old: Tensor, *, generator: torch.Generator) -> Tensor:
    """Random rows ``(count, D)`` of length 1, orthogonal to each other and to ``old`` ``(n, D)`` (Gram-Schmidt).

    Where D is too small for that, orthogonal to each other, and then only of length 1. By QR, so that they are
    orthogonal to rows that training has moved as well, which one pass of Gram-Schmidt over such rows is not.
    """
    rows = torch.randn(count, old.shape[1], generator=generator, dtype=torch.float64)
    if count + len(old) <= old.shape[1]:
        basis = torch.linalg.qr(old.detach().double().T).Q  # (D, n)
        rows = rows - rows @ basis @ basis.T
    if count <= old.shape[1]:
        rows = torch.linalg.qr(rows.T).Q.T
    return functional.normalize(rows, dim=1).float()


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return 2 * torch.rand(shape, generator=generator) - 1
