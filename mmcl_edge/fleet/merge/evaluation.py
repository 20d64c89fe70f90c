"""Evaluation data as ``Evaluate``: a task folder, decoded once, that any number of packs of one bundle answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmcl_edge.errors import MergeError
from mmcl_edge.fleet.merge.reading import Array

if TYPE_CHECKING:
    import torch

    from mmcl_edge.adapters.model import Model
    from mmcl_edge.runtime.engine import Runtime
    from mmcl_edge.types import Sample

MOST_FOR_FISHER = 256
"""Samples that the Fisher information is estimated on."""


@dataclass(frozen=True)
class Evaluator:
    """Answers of packs to the samples of one task folder.

    Attributes:
        runtime: of the packs' bundle.
        samples: labelled, decoded.
        skipped: files that could not be decoded.
    """

    runtime: Runtime
    samples: tuple[Sample, ...]
    skipped: int

    def __call__(self, folder: Path) -> dict[str, tuple[int, int]]:
        """Right answers and samples of every class of the data, by the pack in ``folder``.

        Raises:
            PackError: the pack is broken or of another bundle.
        """
        self.runtime.load_pack(folder)
        counts = {str(sample.label): (0, 0) for sample in self.samples}
        for sample, answer in zip(self.samples, self.runtime.predict_batch(self.samples), strict=True):
            right, total = counts[str(sample.label)]
            counts[str(sample.label)] = (right + same_class(answer.label, str(sample.label)), total + 1)
        return counts

    def fisher(self, folder: Path) -> dict[str, Array]:
        r"""Diagonal Fisher information of a pack's trainable tensors, by name, in their shapes.

        .. math:: F = E_x \, E_{y \sim p(y|x)} \left[ (\partial \log p(y|x) / \partial \theta)^2 \right]

        One y is drawn for each sample, from a fixed seed. Frozen experts have none: they are not averaged.

        Raises:
            PackError: the pack is broken, of another bundle, or has no gradients.
        """
        import torch

        from mmcl_edge.adapters.model import model_tensors
        from mmcl_edge.learners.mmcl import MmclLearner
        from mmcl_edge.learners.persistence import model_from_pack
        from mmcl_edge.packs import read_pack

        pack = read_pack(folder, bundle_digest=self.runtime.bundle.family)
        model, generator = model_from_pack(pack, self.runtime.backbones), torch.Generator().manual_seed(0)
        learner = MmclLearner(
            model, pack.config, preprocess=self.runtime.preprocess, seed=0, labels=pack.manifest.label_names
        )
        prepared = learner.prepare(self.samples[:MOST_FOR_FISHER])
        squares = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
        for index in range(len(prepared)):
            batch = model.encoder.collate([prepared[index]])
            add_squares(model, batch, squares, generator)
        with torch.no_grad():
            for name, value in model.named_parameters():
                value.copy_(squares[name] / max(1, len(prepared)))
            for frozen in model.buffers():
                frozen.zero_()
        return {name: value.numpy() for name, value in model_tensors(model).items()}


def add_squares(model: Model, batch: object, squares: Mapping[str, torch.Tensor], generator: torch.Generator) -> None:
    """Add the squared gradients of one sample's log-probability of a class drawn from the model's own answer."""
    import torch

    model.zero_grad()
    logs = model(batch).logits.log_softmax(dim=-1)  # (1, C)
    drawn = torch.multinomial(logs.detach().exp(), 1, generator=generator)
    logs.gather(1, drawn).sum().backward()
    for name, value in model.named_parameters():
        if value.grad is not None:
            squares[name].add_(value.grad.square())


def same_class(one: str, other: str) -> bool:
    """Whether two names are one class: they may differ in case (see ``Labels``)."""
    return one.casefold() == other.casefold()


@contextmanager
def open_evaluator(
    bundle: Path, data: Path, *, provider: str = "auto", threads: int | None = None
) -> Iterator[Evaluator]:
    """The samples in ``data`` and a runtime on ``bundle``, for the time of a ``with`` block.

    Raises:
        TaskDataError: ``data`` is no task folder.
        BundleError: the bundle is broken.
        MergeError: none of the samples can be decoded.
    """
    from mmcl_edge.config import AdaptConfig
    from mmcl_edge.data.clips import clipped
    from mmcl_edge.data.task_folder import decode_task, read_task
    from mmcl_edge.runtime.engine import Runtime

    how = AdaptConfig()
    task = read_task(data, min_samples=1)
    samples, skipped = decode_task(
        task, max_frames=how.max_frames, transform=lambda sample: clipped(sample, how.clip_s)
    )
    if not samples:
        raise MergeError(f"Expected samples that can be decoded in {data}, but there are none; choose other data.")
    with Runtime.open(bundle, provider=provider, threads=threads) as runtime:
        yield Evaluator(runtime, tuple(samples), len(skipped))
