"""A shared space in a pack: what is stored, what is checked before it is used, and the learner that it becomes again.

In ``adapter_model.safetensors`` every tensor of the space has a name that begins with ``space.``; the rest is a name of
``CometLearner.state_dict``. ``adapter_config.json`` holds ``method.space`` (``CometConfig``) and ``module.space``
(``SpaceFacts``). Rules of ``space_of``, in this order; each refuses before anything is built:

1. All three are there, or none.
2. The facts fit their schema: known modalities, each once, mediators among them.
3. The tensors are exactly those that configuration and facts ask for, float32, of the shapes that follow from them.
4. There are codes; counts and variances are not negative, and the codes of Gaussians are codes of the book.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor

from mmcl_edge.adapters.cmoe import PARTS
from mmcl_edge.config import CometConfig
from mmcl_edge.data.crossmodal import MODALITIES
from mmcl_edge.errors import InputError, PackError
from mmcl_edge.fileio import canonical_json
from mmcl_edge.learners.comet.learner import CometLearner
from mmcl_edge.learners.host import Host
from mmcl_edge.learners.protocol import MEMORY, LearnerState
from mmcl_edge.packs import Pack
from mmcl_edge.packs.manifest import Name, validation_sentence
from mmcl_edge.packs.spaces import SPACE_KEY
from mmcl_edge.packs.tensors import SPACE_PREFIX
from mmcl_edge.types import FrozenModel

_ADVICE = "fetch the pack again, or use another"
_IDLE = "codebook.idle"
"""Updates since a code was used: counted while learning, nothing to keep."""

Shapes = dict[str, tuple[int, ...]]
Count = Annotated[int, Field(ge=0, le=1 << 53)]


class SpaceFacts(FrozenModel):
    """What a space is made of, beside its tensors."""

    modalities: tuple[str, ...] = Field(description="Learned, mediators included, in the order in which they joined.")
    mediators: tuple[str, ...] = Field(description="Those that were the first to tell others.")
    experts_frozen: Count = Field(description="Experts of the CMoE-Adapter that learn no more.")
    codes_settled: Count = Field(description="Codes of earlier stages.")
    stages: tuple[Name, ...] = Field(description="Names of what was learned, in order.")
    pairs: dict[str, Count] = Field(description="Training pairs seen, by modality.")

    @model_validator(mode="after")
    def _known_modalities(self) -> SpaceFacts:
        unknown = sorted({*self.modalities, *self.mediators, *self.pairs} - set(MODALITIES))
        if unknown or len(set(self.modalities)) != len(self.modalities) or len(self.modalities) < 2:
            raise ValueError(f"modalities should be two or more of {', '.join(MODALITIES)}, each once")
        if not self.mediators or not {*self.mediators, *self.pairs} <= set(self.modalities):
            raise ValueError("mediators, one or more, and what has pairs should be among the modalities")
        return self


@dataclass(frozen=True, eq=False, slots=True)
class StoredSpace:
    """A shared space as it is stored.

    Attributes:
        config: of the method.
        tensors: as ``CometLearner.state_dict`` names them.
        facts: what else there is to know.
    """

    config: CometConfig
    tensors: Mapping[str, Tensor]
    facts: SpaceFacts

    @classmethod
    def of(cls, learner: CometLearner, *, stages: Sequence[str], pairs: Mapping[str, int]) -> StoredSpace:
        """What ``learner`` knows after ``stages``, from so many ``pairs`` of each modality."""
        state = learner.state()
        tensors = {name: value.contiguous() for name, value in state.tensors.items() if name != _IDLE}
        known = {**state.facts, "stages": tuple(stages), "pairs": dict(sorted(pairs.items()))}
        return cls(learner.config, tensors, SpaceFacts.model_validate(known))

    def tensors_in_pack(self) -> dict[str, Tensor]:
        """The tensors by their names in a pack."""
        return {SPACE_PREFIX + name: value for name, value in self.tensors.items()}

    def module(self) -> dict[str, Any]:
        """The facts as an entry of a pack's ``module``."""
        return {SPACE_KEY: self.facts.model_dump(mode="json")}

    @property
    def digest(self) -> str:
        """Names what it embeds: sha256 over configuration, facts and tensors, pseudo-replay's memory aside."""
        facts = self.facts.model_dump(mode="json")
        found = hashlib.sha256(canonical_json([self.config.model_dump(mode="json"), facts]))
        for name, value in sorted(self.tensors.items()):
            if not name.startswith(MEMORY):
                found.update(f"{name} {tuple(value.shape)}".encode() + value.contiguous().numpy().tobytes())
        return found.hexdigest()

    def checked(self) -> StoredSpace:
        """Rules 3 and 4.

        Raises:
            PackError: one of them fails.
        """
        _check_tensors(self)
        return self

    def learner(self, host: Host) -> CometLearner:
        """A learner on ``host`` that goes on from here.

        Raises:
            PackError: the bundle has no backbone for a modality, or one of other features.
        """
        learner = CometLearner(host, self.config)
        facts, codes = self.facts, self.tensors["codebook.codes"]
        known = facts.model_dump(include={"modalities", "mediators", "experts_frozen", "codes_settled"})
        tensors = dict(self.tensors) | {_IDLE: torch.zeros(len(codes), dtype=torch.int64)}
        learner.load_state(LearnerState(tensors, (), len(facts.stages), facts=known))
        for modality in facts.modalities:
            try:
                width, expected = len(self.tensors[f"branches.{modality}.mean"]), learner.feature_dim(modality)
            except InputError as error:
                raise PackError(f"The pack's shared space does not fit this bundle: {error}") from error
            if width != expected:
                raise PackError(
                    f"Expected a shared space for this bundle, whose features of {modality} are {expected} wide, "
                    f"but the pack's are {width}; use a pack made for this bundle."
                )
        return learner


def holds_space(pack: Pack) -> bool:
    """Whether a pack says anything of a shared space."""
    named = any(name.startswith(SPACE_PREFIX) for name in pack.plain_names)
    return named or pack.config.space is not None or SPACE_KEY in pack.module


def space_of(pack: Pack) -> StoredSpace | None:
    """The shared space of a pack, checked (the rules stand in the module docstring); ``None`` where it holds none.

    Raises:
        PackError: a rule fails.
    """
    if not holds_space(pack):
        return None
    config, facts = pack.config.space, pack.module.get(SPACE_KEY)
    if config is None or facts is None:
        raise _refuse("it should come with its configuration and its facts, but lacks one")
    try:
        checked = SpaceFacts.model_validate(facts)
    except ValidationError as error:
        raise _refuse(validation_sentence(error)) from error
    tensors = {
        name.removeprefix(SPACE_PREFIX): value
        for name, value in pack.tensors().items()
        if name.startswith(SPACE_PREFIX)
    }
    return StoredSpace(config, tensors, checked).checked()


def _check_tensors(stored: StoredSpace) -> None:
    tensors, facts = stored.tensors, stored.facts
    wanted = _shapes(stored)
    odd = sorted(set(wanted) ^ set(tensors))
    if odd:
        raise _refuse(f"tensor {SPACE_PREFIX}{odd[0]} is {'missing' if odd[0] in wanted else 'unknown'}")
    for name, shape in wanted.items():
        found = tensors[name]
        if tuple(found.shape) != shape or found.dtype != torch.float32:
            raise _refuse(f"{SPACE_PREFIX}{name} should be float32 {shape}, but is {found.dtype} {tuple(found.shape)}")
        if name.rpartition(".")[2] in ("counts", "variances") and bool((found < 0).any()):
            raise _refuse(f"{SPACE_PREFIX}{name} holds numbers below zero")
    if not len(tensors["codebook.codes"]):
        raise _refuse("it has no codes")
    if facts.codes_settled > len(tensors["codebook.codes"]):
        raise _refuse("more of its codes are settled than there are")


def _shapes(stored: StoredSpace) -> Shapes:
    """Name to shape of every tensor; what may vary (widths of features, codes, experts) follows from one tensor each.

    Raises:
        PackError: that tensor is missing, or of another number of dimensions.
    """
    config, facts = stored.config, stored.facts
    slots, dim = config.slots, config.dim
    codes, features = _lengths(stored, "codebook.codes", 2)[0], config.specific_dim
    shapes: Shapes = {"codebook.codes": (codes, dim), "codebook.counts": (codes,), "codebook.sums": (codes, dim)}
    for modality in facts.modalities:
        at = f"branches.{modality}."
        own, width = _lengths(stored, f"{at}basis", 2)
        shapes |= {
            f"{at}mean": (own,),
            f"{at}basis": (own, width),
            f"{at}specific_mean": (features,),
            f"{at}specific_deviation": (features,),
            f"{at}project.weight": (slots * dim, width),
            f"{at}project.bias": (slots * dim,),
            f"{at}specific.weight": (features, width),
            f"{at}specific.bias": (features,),
            f"{at}decoder.0.weight": (config.hidden, slots * dim + features),
            f"{at}decoder.0.bias": (config.hidden,),
            f"{at}decoder.2.weight": (width, config.hidden),
            f"{at}decoder.2.bias": (width,),
        }
    learning = _lengths(stored, "cmoe.route", 2)[0]
    parts = {"down": (dim, config.rank), "bias": (config.rank,), "up": (config.rank, dim), "route": (dim,)}
    for part in PARTS:
        shapes[f"cmoe.frozen_{part}"] = (facts.experts_frozen, *parts[part])
        shapes[f"cmoe.{part}"] = (learning, *parts[part])
    shapes |= {f"prediction.summary.weight_{way}_l0": (4 * dim, dim) for way in ("ih", "hh")}
    shapes |= {f"prediction.summary.bias_{way}_l0": (4 * dim,) for way in ("ih", "hh")}
    shapes |= {"prediction.next.weight": (dim, dim), "prediction.next.bias": (dim,)}
    if config.pseudo_replay == "light":
        for modality in facts.modalities:
            at = f"{MEMORY}{modality}."
            shapes |= {f"{at}counts": (codes,), f"{at}means": (codes, dim), f"{at}variances": (codes, dim)}
    return shapes


def _lengths(stored: StoredSpace, name: str, dimensions: int) -> tuple[int, ...]:
    found = stored.tensors.get(name)
    if found is None or found.dim() != dimensions:
        raise _refuse(f"{SPACE_PREFIX}{name} should be there, with {dimensions} dimensions")
    return tuple(found.shape)


def _refuse(problem: str) -> PackError:
    return PackError(f"The pack's shared space is malformed: {problem}; {_ADVICE}.")
