"""Shared spaces of many devices as one. The one place where merging meets them.

Rules, performed in this order; spaces come in the order of their packs' digests, so the order of packs does not matter:

1. Spaces must fit (``spaces_fit``).
2. Branches are taken whole or combined (``spaces_branches``).
3. Codes are matched (``spaces_codes``), each codebook once; experts are united (``spaces_experts``). Those of a space
   that move what others know (``spaces_meddling``) are named; ``median`` and ``krum`` leave them out.
4. The Gaussians of a branch follow it and the codes; those of a combined branch are mixtures.
5. What only helps to learn (the predictor of cross-CPC) is that of the first space where it is not the base's. Settings
   of learning, which devices go on with, are those of most weight; of equal weight the base's, else the first's.

One space, or equal ones, give the same again, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmcl_edge.config import CometConfig
from mmcl_edge.fleet.merge.methods import ROBUST
from mmcl_edge.fleet.merge.sharing import ModalityFigures, SpaceFigures
from mmcl_edge.fleet.merge.spaces_branches import Branch, Branches, Look
from mmcl_edge.fleet.merge.spaces_codes import Book, MergedBook, merge_books
from mmcl_edge.fleet.merge.spaces_experts import merge_experts
from mmcl_edge.fleet.merge.spaces_fit import check_spaces, most_codes
from mmcl_edge.fleet.merge.spaces_held import HeldSpace, shares
from mmcl_edge.fleet.merge.spaces_meddling import MOVES, meddling
from mmcl_edge.learners.comet.storage import SpaceFacts, StoredSpace
from mmcl_edge.learners.protocol import MEMORY
from mmcl_edge.replay.pseudo import CodeGaussians

_BOOK = "codebook."


@dataclass(frozen=True)
class MergedSpace:
    """The result; notes are sentences on what a reader should know."""

    stored: StoredSpace
    figures: SpaceFigures
    notes: tuple[str, ...] = ()


def merge_spaces(
    spaces: Sequence[HeldSpace], *, base: HeldSpace | None = None, method: str = "mean", look: Look | None = None
) -> MergedSpace:
    """Merge shared spaces (the rules stand in the module docstring).

    Args:
        spaces: one or more.
        base: what all went on from, where it is known.
        method: of the merge: ``median``, ``krum`` and ``union`` choose shares of branches, the others take the mean.
        look: hears of distances, to name outliers.

    Raises:
        MergeError: they cannot be one.
    """
    every = sorted(spaces, key=lambda one: one.digest)
    lineage = [*([base] if base else []), *every]
    check_spaces(lineage)
    config, facts = _settings(every, base), [one.stored.facts for one in lineage]
    held = {name for one in every for name in one.modalities}
    mediators = [name for name in _in_order(one.mediators for one in facts) if name in held]
    choose = Branches(every, base, mediators, method, look)
    branches = {name: choose.merged(name) for name in _in_order(one.modalities for one in facts) if name in held}
    merged, codebook = _books(every, base)
    odd = meddling(every, base)
    trusted = [one for one in every if method not in ROBUST or one.digest not in odd]
    experts = merge_experts(trusted, base) if trusted or base is None else merge_experts([base], None)
    tensors = {f"branches.{m}.{name}": value for m, one in branches.items() for name, value in one.tensors.items()}
    tensors |= codebook | experts.tensors | _helping(every, base)
    if config.pseudo_replay == "light":
        for m, one in branches.items():
            told = _gaussians(every, m, one, merged).tensors()
            tensors |= {f"{MEMORY}{m}.{name}": value for name, value in told.items()}
    made = SpaceFacts(
        modalities=tuple(branches),
        mediators=tuple(mediators),
        experts_frozen=experts.frozen,
        codes_settled=len(codebook["codebook.codes"]),
        stages=tuple(_in_order(one.stages for one in facts)),
        pairs={m: one.pairs for m, one in sorted(branches.items()) if any(m in one.pairs for one in facts)},
    )
    figures = SpaceFigures(
        packs=len(every),
        modalities=tuple(
            ModalityFigures(m, bool(one.shares), tuple(every[n].digest for n in one.holders), one.pairs)
            for m, one in branches.items()
        ),
        codes=len(codebook["codebook.codes"]),
        codes_matched=merged.matched,
        codes_joined=merged.joined,
        experts=experts.frozen,
        experts_folded=experts.folded,
    )
    stored = StoredSpace(config, {name: tensors[name].contiguous() for name in sorted(tensors)}, made).checked()
    return MergedSpace(stored, figures, tuple(_notes(every, choose, odd)))


def _settings(spaces: Sequence[HeldSpace], base: HeldSpace | None) -> CometConfig:
    """Rule 5: a single pack does not choose for all."""
    weights = dict[CometConfig, float]()
    for one in spaces:
        weights[one.stored.config] = weights.get(one.stored.config, 0.0) + one.weight
    most = max(weights.values())
    found = [config for config, weight in weights.items() if weight >= most * (1 - 1e-9)]
    return base.stored.config if base and base.stored.config in found else found[0]


def _in_order(names: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(name for some in names for name in some))


def _books(spaces: Sequence[HeldSpace], base: HeldSpace | None) -> tuple[MergedBook, dict[str, Tensor]]:
    """Rule 3: the merged codebook, with a ``where`` for every space, and its tensors."""
    config, numbers = spaces[0].stored.config, dict[str, int]()
    own, books, weights = list[int](), list[dict[str, Tensor]](), list[float]()
    for space in spaces:
        book = space.part(_BOOK)
        number = numbers.setdefault(space.content(_BOOK), len(numbers))
        if number == len(books):
            books.append(book)
            weights.append(0.0)
        weights[number] = max(weights[number], space.weight)
        own.append(number)
    start = base.part(_BOOK) if base and len(books) > 1 else None
    merged = merge_books(
        [Book(one["codes"], one["counts"]) for one in books],
        [len(books) * share for share in shares(weights)],
        base=None if start is None else Book(start["codes"], start["counts"]),
        cosine=config.merge_cosine,
        cap=most_codes(config),
        length=float(config.slots) ** 0.5,
    )
    codes, counts = merged.book.codes, merged.book.counts.float()
    made = {"codes": codes, "counts": counts, "sums": codes * counts[:, None]}
    every = replace(merged, where=tuple(merged.where[number] for number in own))
    return every, {_BOOK + name: value for name, value in (books[0] if len(books) == 1 else made).items()}


def _helping(spaces: Sequence[HeldSpace], base: HeldSpace | None) -> dict[str, Tensor]:
    """Rule 5."""
    prefix = "prediction."
    old = base.content(prefix) if base else None
    chosen = next((one for one in spaces if one.content(prefix) != old), spaces[0])
    return {prefix + name: value for name, value in chosen.part(prefix).items()}


def _gaussians(spaces: Sequence[HeldSpace], modality: str, branch: Branch, book: MergedBook) -> CodeGaussians:
    """Rule 4: mixtures weigh each part by its share, whatever it claims to have seen."""
    codes = len(book.book.codes)
    if not branch.shares:
        first = branch.holders[0]
        return _moved(spaces[first], modality, book.where[first], codes)
    parts = [_moved(spaces[n], modality, book.where[n], codes) for n in branch.holders]
    size = max(1, branch.pairs) * spaces[0].stored.config.slots
    counts = [
        one.counts * (share * size / max(float(one.counts.sum()), 1e-6))
        for one, share in zip(parts, branch.shares, strict=True)
    ]
    rows = torch.arange(codes).repeat(len(parts))
    means, variances = (torch.cat([getattr(one, name) for one in parts]) for name in ("means", "variances"))
    return CodeGaussians(torch.cat(counts), means, variances).moved(rows, codes)


def _moved(space: HeldSpace, modality: str, where: Tensor, codes: int) -> CodeGaussians:
    told = space.part(f"{MEMORY}{modality}.")
    own = CodeGaussians(told["counts"], told["means"], told["variances"])
    unmoved = codes == len(where) and torch.equal(where, torch.arange(codes))
    return own if unmoved else own.moved(where, codes)


def _notes(spaces: Sequence[HeldSpace], choose: Branches, meddlers: Mapping[str, float]) -> list[str]:
    notes = []
    if len({one.stored.config for one in spaces}) > 1:
        notes.append("The shared spaces were adapted with different settings; those of most weight are recorded.")
    for name in choose.mediators:
        odd = choose.odd_mediators(name)
        if odd:
            packs = ", ".join(f"{digest[:16]}..." for digest in odd)
            notes.append(f"The mediator {name} of {packs} is not that of most, which is kept.")
    for digest, moved in meddlers.items():
        done = "were left out" if choose.method in ROBUST else "'median' and 'krum' leave them out"
        notes.append(
            f"The experts of {digest[:16]}... move what others know by {moved:.2f} (one minus cosine; {MOVES} is "
            f"much): {done}."
        )
    return notes
