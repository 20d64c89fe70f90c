"""Values of parameters under names that last, however the head grows and experts come, freeze and change places.

An expert's tensors are rows of stacks (``adapters.experts``), whose order changes when experts freeze; its id does not
change while it learns. So a row of a stack is named ``<parameter>@<expert>``; every other parameter by its own name:
the head only ever grows at its end. When an expert freezes, a fresh one may take its name: what was kept under it must
be dropped by then. The learners that use this freeze none.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mmcl_edge.adapters.model import Model


def expert_rows(model: Model) -> dict[str, list[str]]:
    """Every parameter with one row an expert, by name: the ids of its rows' experts."""
    rows = {}
    for number, block in enumerate(model.blocks):
        ids, place = [info.id for info in block.bank.infos], f"encoder.adapters.{number}"
        rows[f"{place}.router.weight"] = ids
        for modality in block.bank.stacks:
            for part in block.bank.stack_of(modality).shapes:
                rows[f"{place}.bank.stacks.{modality}.{part}"] = ids[block.bank.frozen :]
    return rows


def apart(model: Model, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values of a model's parameters, by the parameters' names, under names that last."""
    rows = expert_rows(model)
    named: dict[str, Tensor] = {}
    for name, value in values.items():
        if name in rows:
            named |= {f"{name}@{owner}": row.detach().clone() for owner, row in zip(rows[name], value, strict=True)}
        else:
            named[name] = value.detach().clone()
    return named


def together(model: Model, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What ``apart`` named, shaped as the model's parameters are now; zero for rows that it did not have then."""
    rows, values = expert_rows(model), {}
    for name, parameter in model.named_parameters():
        if not parameter.numel():
            continue
        if name in rows:
            empty = torch.zeros_like(parameter[0])
            values[name] = torch.stack([named.get(f"{name}@{owner}", empty) for owner in rows[name]]).detach()
        else:
            values[name] = _grown(named.get(name), parameter)
    return values


def _grown(value: Tensor | None, like: Tensor) -> Tensor:
    """``value`` with rows of zeros at its end, until it is as long as ``like``."""
    if value is None or value.shape == like.shape:
        return torch.zeros_like(like) if value is None else value.clone()
    grown = torch.zeros_like(like)
    grown[: len(value)] = value
    return grown.detach()
