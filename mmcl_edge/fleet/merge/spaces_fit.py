"""Whether shared spaces can be one: refused with a sentence before anything is merged."""

from __future__ import annotations

from collections.abc import Sequence

from mmcl_edge.config import CometConfig
from mmcl_edge.errors import MergeError
from mmcl_edge.fleet.merge.spaces_held import HeldSpace

FREE = frozenset(
    {
        "ridge",
        "start",
        "decay",
        "settled_decay",
        "dead_after",
        "expand",
        "expand_margin",
        "expand_codes",
        "experts",
        "router_noise",
        "train_mediator",
        "replay_weight",
        "reconstruction_weight",
        "commitment_weight",
        "cpc_weight",
        "cpc_temperature",
        "matching_weight",
        "club_weight",
        "club_steps",
        "contrast_weight",
        "contrast_temperature",
        "epochs",
        "batch_size",
        "learning_rate",
        "projection_rate",
        "weight_decay",
        "gradient_clip",
    }
)
"""Fields in which spaces may differ: they say how a space learns, not what it is."""
MOST_BROUGHT = 256
"""Most frozen experts of one space: two a stage."""


def check_spaces(spaces: Sequence[HeldSpace]) -> None:
    """Refuse spaces that cannot be one: of other shapes, other mediators, or features of other widths.

    Raises:
        MergeError: names the packs and what differs.
    """
    first, told, read = spaces[0], dict[str, HeldSpace](), dict[str, HeldSpace]()
    for other in spaces:
        _check_configs(first, other)
        _check_mediators(first, other, told)
        _check_widths(other, read)
        if other.stored.facts.experts_frozen > MOST_BROUGHT:
            raise MergeError(
                f"Expected at most {MOST_BROUGHT} frozen experts in the shared space of {other.digest[:16]}..., but "
                f"found {other.stored.facts.experts_frozen}; leave that pack out."
            )
        codes, most = len(other.stored.tensors["codebook.codes"]), most_codes(other.stored.config)
        if codes > most:
            raise MergeError(
                f"Expected at most {most} codes in the shared space of {other.digest[:16]}..., as its configuration "
                f"says, but found {codes}; leave that pack out."
            )


def most_codes(config: CometConfig) -> int:
    """The cap of a codebook."""
    return int(config.expand_cap * config.codes)


def shape_of(config: CometConfig) -> dict[str, object]:
    """Fields in which spaces must agree."""
    return {name: value for name, value in config.model_dump().items() if name not in FREE}


def _check_configs(first: HeldSpace, other: HeldSpace) -> None:
    a, b = shape_of(first.stored.config), shape_of(other.stored.config)
    differing = [f"{name} ({a[name]} and {b[name]})" for name in a if a[name] != b[name]]
    if differing:
        raise MergeError(
            f"Expected shared spaces of one configuration, but those of {_both(first, other)} differ in "
            f"{', '.join(differing)}; merge packs that were adapted alike."
        )


def _check_mediators(first: HeldSpace, other: HeldSpace, known: dict[str, HeldSpace]) -> None:
    """``known`` is the first space that has each modality: what told others there tells others here."""
    theirs = other.stored.facts.mediators
    against = [first] if first.stored.facts.mediators[0] != theirs[0] else []
    for modality in other.modalities:
        before = known.setdefault(modality, other)
        against += [before] if (modality in before.stored.facts.mediators) != (modality in theirs) else []
    if against:
        ours = against[0].stored.facts.mediators
        raise MergeError(
            f"Expected shared spaces with one mediator, but those of {_both(against[0], other)} were told by "
            f"{', '.join(ours)} and by {', '.join(theirs)}; merge packs whose modalities met the same one."
        )


def _check_widths(other: HeldSpace, known: dict[str, HeldSpace]) -> None:
    """``known`` is the first space that has each modality."""
    for modality in other.modalities:
        before = known.setdefault(modality, other)
        ours, theirs = (len(one.stored.tensors[f"branches.{modality}.mean"]) for one in (before, other))
        if ours != theirs:
            raise MergeError(
                f"Expected features of {modality} of one width, but those of {_both(before, other)} are {ours} and "
                f"{theirs} wide; merge packs of one bundle."
            )


def _both(first: HeldSpace, other: HeldSpace) -> str:
    return f"{first.digest[:16]}... and {other.digest[:16]}..."
