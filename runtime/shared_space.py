"""A pack's shared space on a device: samples of any modality that it knows become vectors that can be compared."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mmcl_edge.config import MethodConfig
from mmcl_edge.data.crossmodal import MEDIATOR, carrier_of
from mmcl_edge.errors import InputError, PackError
from mmcl_edge.learners.comet.storage import space_of
from mmcl_edge.learners.features import FeatureCache
from mmcl_edge.learners.host import Host
from mmcl_edge.learners.protocol import Preprocess
from mmcl_edge.packs import Pack
from mmcl_edge.types import Backbone, Sample

TEACH = "'mmcl-edge adapt --modality {} --mediator {} --data DIR'"
"""The command that teaches a modality through another."""


class SharedSpace:
    """Safe in many threads; keeps nothing of what it is asked."""

    def __init__(self, pack: Pack, backbones: Mapping[str, Backbone], preprocess: Preprocess) -> None:
        """The space of a pack that holds one.

        Raises:
            PackError: it is malformed, or of another bundle.
            InputError: the bundle has no backbone for one of its modalities.
        """
        stored = space_of(pack)
        assert stored is not None  # who calls has looked
        self.facts = stored.facts
        self.digest = stored.digest
        self._learner = stored.learner(Host(backbones, MethodConfig(), preprocess, seed=0))

    @property
    def modalities(self) -> tuple[str, ...]:
        """What it knows, mediators included, in the order in which it was learned."""
        return self.facts.modalities

    def embed(self, samples: Sequence[Sample], modality: str) -> NDArray[np.float32]:
        """Unit vectors ``(n, D)`` of samples that hold ``modality``; every modality has the same D.

        Raises:
            InputError: there is no such modality, it was not taught, or a sample lacks it.
            PackError: the space gives vectors that are no numbers.
        """
        self.check(modality)
        learner = copy.copy(self._learner)
        learner.read = copy.copy(learner.read)
        learner.read.cache = FeatureCache()  # of this call alone
        with torch.inference_mode():
            vectors: NDArray[np.float32] = learner.embed(samples, modality).numpy()
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(bad):
            raise PackError(
                f"The shared space of the pack in use should give finite vectors, but for {len(bad)} samples of "
                f"{modality} (first: {samples[bad[0]].source or 'the first'}) does not; roll back, or use another pack."
            )
        return vectors

    def check(self, modality: str) -> None:
        """Refuse what the space does not know.

        Raises:
            InputError: there is no such modality, or it was not taught.
        """
        carrier_of(modality)
        if modality in self.modalities:
            return
        first = self.modalities[0]
        if modality == MEDIATOR:
            advice = f"the space was begun without it, through {first}, so use files of those"
        else:
            advice = f"teach it with {TEACH.format(modality, first)}"
        raise InputError(
            f"Expected a modality of the shared space ({', '.join(self.modalities)}), but {modality} was not taught "
            f"yet; {advice}."
        )

    def modality_of(self, sample: Sample) -> str:
        """The one modality that ``sample`` can be taken as here.

        Raises:
            InputError: there is none, or several.
        """
        fitting = [name for name in self.modalities if self._learner.read.has(sample, name)]
        if len(fitting) == 1:
            return fitting[0]
        name = sample.source or "the sample"
        if not fitting:
            raise InputError(
                f"Expected a sample that holds one of {', '.join(self.modalities)}, but {name} holds none; "
                "teach the space its modality first."
            )
        raise InputError(f"Expected to be told whether {name} is {' or '.join(fitting)}; say it with read_as.")
