"""The upper bound of ``comet``: every pair set so far, kept and learned at once, from scratch."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from mmcl_edge.learners.comet.learner import CometLearner
from mmcl_edge.learners.comet.stage import Pairs, learn_stage
from mmcl_edge.learners.protocol import OnProgress
from mmcl_edge.learners.trained import tensor_bytes

_PARTS = ("own", "text", "groups")


class JointCometLearner(CometLearner):
    """Keeps the frozen features of all pairs; each experience trains a new space on them, as a single stage."""

    kept: tuple[Pairs, ...] = ()

    def _learn(self, pairs: Pairs, on_progress: OnProgress | None) -> None:
        kept = (*self.kept, pairs)
        space = self._empty()
        self.last = learn_stage(
            space, kept, self.config, seed=self.seed, stage=1, gaussians={}, on_progress=on_progress
        )
        self.space, self.gaussians, self.kept = space, {}, kept

    def memory(self) -> dict[str, Tensor]:
        """The features of all pairs."""
        return {
            f"{number}.{one.modality}.{one.mediator}.{part}": getattr(one, part)
            for number, one in enumerate(self.kept)
            for part in _PARTS
        }

    def load_memory(self, tensors: dict[str, Tensor]) -> None:
        """Take back what ``memory`` gave."""
        found: dict[int, Pairs] = {}
        for name, value in tensors.items():
            number, modality, mediator, part = name.split(".")
            one = found.get(int(number), Pairs(modality, mediator, value, value, value))
            found[int(number)] = _with(one, part, value)
        self.kept = tuple(found[number] for number in sorted(found))

    @property
    def memory_bytes(self) -> int:
        """Bytes of the features of all pairs."""
        return tensor_bytes(self.memory().values())


def _with(pairs: Pairs, part: str, value: Tensor) -> Pairs:
    own, text, groups = (value if name == part else getattr(pairs, name) for name in _PARTS)
    return replace(pairs, own=own, text=text, groups=groups)
