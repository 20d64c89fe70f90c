"""How a pack stores its weights: fp32, fp16 or int8, told by the names of its tensors; or in steps from a parent.

==================================  ============================================================================
stored                              stands for the float32 tensor ``name``
==================================  ============================================================================
``name``                            itself
``name:fp16`` (F16)                 the same values, rounded: relative error at most 2^-11
``name:int8``, ``name:scale``       ``int8 * scale``, one scale a row: error at most half a step, which is the
                                    largest magnitude of the row / 127
==================================  ============================================================================

Reducing a pack makes another pack, its child with the method ``fp16``, ``int8`` or ``int4``. In the order performed:

1. What is no float32 stays: integers, truth values, other floats. So do ``analytic.*`` (sums must stay exact to add
   up), the codebook and the Gaussians of a shared space (they add up, too, and are 2 % of it), scalars, and values that
   fp16 cannot hold.
2. A tensor that a pack to *keep to* holds with equal values takes the form it has there, so that a delta against that
   pack says nothing of it.
3. int4: a tensor that the pack to keep to holds as float32 of the same shape, with other values, stays float32 but
   comes to be a few steps away from those (``packs.steps``), which is small in a delta alone.
4. fp16: all others. int8, and what int4 has left: those with rows (two dimensions or more) of at least 64 values in
   all; the rest as fp16: biases, norms, the statistics of a calibration and the projections of a shared space are a
   small share of the bytes and a large one of the damage.
5. Confidence stays: it was measured on the parent, whose answers the child's differ from by less than a calibration on
   held-out samples can see (``benchmarks/bench_pack_size.py``). Without it answers would be off by far more. To
   be exact again, calibrate again (``mmcl-edge calibrate confidence``).

Frozen experts keep their ids: the id names the expert, of which this is a rounding.

A shared space of text, pictures, sounds and speech (15.6 MB), learned from the stamps in three orders
(``benchmarks/bench_space_size.py``): in fp16 (8.0 MB) no embedding moves by more than rounding and no figure of
retrieval moves; in int8 (4.6 MB) embeddings move by at most 0.003 (one minus cosine), and the mean of 36 recalls by
0.16 points at most, which is one answer here and there. Projections are why: in int8, too, they would move embeddings
by 0.016 and recalls by 0.8 points on average, for 0.4 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from mmcl_edge.errors import PackError
from mmcl_edge.packs.confidence import PREFIX as CONFIDENCE_PREFIX
from mmcl_edge.packs.steps import LEAST_VALUES, rounded
from mmcl_edge.packs.tensors import SPACE_PREFIX, SUMS_PREFIX, TensorEntry

if TYPE_CHECKING:
    import torch

    from mmcl_edge.packs.contents import PackContents
    from mmcl_edge.packs.reader import Pack

Precision = Literal["fp32", "fp16", "int8"]
Reduction = Literal["fp16", "int8", "int4"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


MAX_FP16 = 65504.0
FP16, INT8, SCALE = ":fp16", ":int8", ":scale"

_EXACT = (SUMS_PREFIX, f"{SPACE_PREFIX}codebook.", f"{SPACE_PREFIX}memory.")
"""Names of what is never reduced begin so."""
_BRANCHES, _PROJECTION = f"{SPACE_PREFIX}branches.", ".project.weight"

Value = TypeVar("Value")


def plain_name(stored: str) -> str:
    """The tensor that a stored one stands for.

    >>> plain_name("head.weight:int8"), plain_name("head.weight")
    ('head.weight', 'head.weight')
    """
    return stored.partition(":")[0]


def precision_of(names: Collection[str]) -> Precision:
    """The smallest precision among stored tensors of these ``names``."""
    if any(name.endswith(INT8) for name in names):
        return "int8"
    return "fp16" if any(name.endswith(FP16) for name in names) else "fp32"


def check_forms(entries: Mapping[str, TensorEntry]) -> None:
    """Refuse stored tensors that do not stand for exactly one tensor each.

    Raises:
        PackError: an unknown form, a form of another dtype or shape, one without its scale, or two for one name.
    """
    for name, entry in entries.items():
        plain, form = plain_name(name), name.removeprefix(plain_name(name))
        if form == "":
            continue
        wanted = {FP16: "F16", INT8: "I8", SCALE: "F32"}.get(form)
        others = {plain, plain + FP16, plain + INT8} - {name}
        twice = form != SCALE and any(other in entries for other in others)
        if wanted != entry.dtype or twice or not _has_scale(form, plain, entries):
            raise PackError(
                f"The pack's tensor {name} should be one whole form of {plain} (fp16, or int8 with a scale for each "
                "row), but is not; fetch the pack again."
            )


def _has_scale(form: str, plain: str, entries: Mapping[str, TensorEntry]) -> bool:
    if form == FP16:
        return True
    rows, scale = entries.get(plain + INT8), entries.get(plain + SCALE)
    if rows is None or scale is None or len(rows.shape) < 2:
        return False
    return scale.shape == (rows.shape[0], *(1 for _ in rows.shape[1:]))


def restored(stored: Mapping[str, Value], widen: Callable[[Value], Any]) -> dict[str, Any]:
    """Stored tensors as the tensors they stand for; of torch or of numpy, as ``widen`` is.

    Args:
        stored: by stored name, in forms that ``check_forms`` accepts.
        widen: makes a float32 of any other dtype.
    """
    found: dict[str, Any] = {}
    for name, value in stored.items():
        plain = plain_name(name)
        if name.endswith(INT8):
            found[plain] = widen(value) * widen(stored[plain + SCALE])
        elif name.endswith(FP16):
            found[plain] = widen(value)
        elif not name.endswith(SCALE):
            found[plain] = value
    return found


def reduced(
    tensors: Mapping[str, torch.Tensor], precision: Reduction, *, kept: Collection[str] = ()
) -> dict[str, torch.Tensor]:
    """``tensors`` in the forms of ``precision``, by stored name; those in ``kept`` are left out (rules 1 and 4)."""
    import torch

    stored: dict[str, torch.Tensor] = {}
    for name, value in tensors.items():
        if name in kept:
            continue
        exact = name.startswith(_EXACT) or value.dtype != torch.float32 or value.dim() == 0
        if exact or not value.numel() or value.abs().max() > MAX_FP16:
            stored[name] = value
        elif precision != "fp16" and value.dim() > 1 and _has_many(name, value):
            stored |= _int8(name, value)
        else:
            stored[name + FP16] = value.to(torch.float16)
    return stored


def _has_many(name: str, value: torch.Tensor) -> bool:
    """Whether ``value`` is worth more than fp16: a large share of the bytes, no calibration's and no projection."""
    fine = name.startswith(CONFIDENCE_PREFIX) or (name.startswith(_BRANCHES) and name.endswith(_PROJECTION))
    return value.numel() >= LEAST_VALUES and not fine


def _int8(name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    import torch

    step = value.abs().amax(dim=tuple(range(1, value.dim())), keepdim=True) / 127
    whole = torch.where(step > 0, value / step, torch.zeros_like(value)).round().clamp(-127, 127)
    return {name + INT8: whole.to(torch.int8), name + SCALE: step}


def reduced_contents(pack: Pack, precision: Reduction, *, keep_to: Pack | None = None) -> PackContents:
    """The contents of ``pack`` in another precision: a child of it, by the rules above.

    Args:
        pack: what to reduce.
        precision: fp16, int8, or int4 for a delta against ``keep_to``.
        keep_to: a pack whose tensors with equal values are taken over in the form they have there.

    Raises:
        PackError: it has that precision, or a smaller one; or int4 is wanted without a pack to keep to.
    """
    from mmcl_edge.packs.contents import child_of

    now = precision_of(pack.entries)
    if precision == now or now == "int8":
        raise PackError(
            f"The pack {pack.digest[:16]}... is stored as {now}, so it cannot be reduced to {precision}; "
            "reduce the pack it was made from, or use it as it is."
        )
    if precision == "int4" and keep_to is None:
        raise PackError(
            "int4 tells weights by steps from another pack's, but none is named; name it (--delta-from), or use int8."
        )
    tensors = pack.tensors()
    if all(name.startswith(_EXACT) for name in tensors):
        raise PackError(
            f"The pack {pack.digest[:16]}... holds sums, which stay exact, and nothing that could be reduced; leave "
            "out the precision."
        )
    kept = {} if keep_to is None else _kept(tensors, keep_to)
    if keep_to is not None and precision == "int4":
        kept |= _in_steps(tensors, keep_to, kept)
    return child_of(
        pack,
        reduced(tensors, precision, kept={plain_name(name) for name in kept}) | kept,
        method=precision,
        confidence=pack.manifest.confidence,
        precision=precision,
        figures_are_of=pack.digest,
    )


def write_reduced(pack: Pack, precision: Reduction, folder: Path, *, keep_to: Pack | None = None) -> str:
    """Write ``pack`` in another precision as ``folder/<digest>``; returns the digest.

    Raises:
        PackError: see ``reduced_contents``.
        StorageError: the folder cannot be written.
    """
    from mmcl_edge.packs.writer import write_pack

    return write_pack(folder, reduced_contents(pack, precision, keep_to=keep_to))


def _kept(tensors: Mapping[str, torch.Tensor], keep_to: Pack) -> dict[str, torch.Tensor]:
    import torch

    known, stored = keep_to.tensors(), keep_to.stored_tensors()
    same = {
        name
        for name, value in tensors.items()
        if name in known and known[name].dtype == value.dtype and torch.equal(known[name], value)
    }
    return {name: value for name, value in stored.items() if plain_name(name) in same}


def _in_steps(tensors: Mapping[str, torch.Tensor], keep_to: Pack, kept: Collection[str]) -> dict[str, torch.Tensor]:
    import torch

    known, done = keep_to.stored_tensors(), {plain_name(name) for name in kept}
    found = {}
    for name, value in tensors.items():
        base = known.get(name)
        if base is None or name in done or name.startswith(_EXACT) or not _has_many(name, value):
            continue
        if value.dtype == base.dtype == torch.float32 and value.shape == base.shape:
            found[name] = torch.from_numpy(rounded(value.numpy(), base.numpy()))
    return found
