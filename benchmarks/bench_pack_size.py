"""How large is what a device sends after learning new classes, and what do smaller weights cost in answers?

Shapes: for the default pair, a pack of 21 classes and its child of 24, as an experience leaves one: every trainable
weight changed, the K most used experts of each block frozen (and so renamed). Weights are random and changes normal
with a hundredth of the size of weights, so sizes are right and answers mean nothing. The row gives bytes of an archive,
whole and as a delta against the parent, in each precision.

Answers: with ``--home``, the folder of a finished ``mmcl-edge quickstart``: the same for what was learned there, with
the accuracy on its test samples (each pair, its sound alone, its picture alone), the share of answers that stay those
of fp32, and the mean change of the probability of the fp32 answer.

    python benchmarks/bench_pack_size.py [--bundle DIR] [--home DIR]
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from common import parser, report, scratch_bundle

from mmcl_edge.adapters.model import Model, build_model
from mmcl_edge.bundle import Bundle
from mmcl_edge.commands.quickstart_place import TASKS, Place
from mmcl_edge.commands.quickstart_run import views
from mmcl_edge.config import AdapterConfig, MethodConfig
from mmcl_edge.data.spoken_digits import TEST_FOLDER
from mmcl_edge.data.task_folder import decode_task, read_task
from mmcl_edge.learners.persistence import contents_of
from mmcl_edge.packs import Pack, read_pack, write_pack
from mmcl_edge.packs.archive import write_archive
from mmcl_edge.packs.precision import PRECISIONS, write_reduced
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.segments import open_backbones
from mmcl_edge.runtime.sessions import SessionFactory
from mmcl_edge.runtime.threads import ThreadPlan
from mmcl_edge.runtime.workspace import Workspace
from mmcl_edge.types import Prediction, Sample

PARENT_CLASSES, NEW_CLASSES = 21, 3
CHANGE = 0.01
TARGETS = {"delta_int4_bytes": 1_000_000}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--home", type=Path, help="the folder of a finished quickstart")
    arguments = options.parse_args()
    if arguments.home:
        answers(arguments.home)
        return
    with scratch_bundle(arguments.bundle) as (folder, bundle):
        for placement in ("ladder", "inline"):
            parent, child = pair(bundle, folder / placement, placement)
            report("pack_size", placement=placement, new_classes=NEW_CLASSES, **sizes(child, parent), targets=TARGETS)


def pair(bundle: Bundle, folder: Path, placement: str) -> tuple[Pack, Pack]:
    """A pack of 21 classes and its child of 24."""
    method, generator = MethodConfig(adapter=AdapterConfig(placement=placement)), torch.Generator().manual_seed(0)
    backbones = open_backbones(bundle, SessionFactory(ThreadPlan.for_machine(), provider="cpu"))
    model = build_model(method.adapter, method.head, backbones, generator=generator)
    model.head.grow(PARENT_CLASSES, generator)
    experience(model, "first", generator)
    parent = saved(model, method, bundle, folder, ())
    model.head.grow(NEW_CLASSES, generator)
    experience(model, "second", generator)
    return parent, saved(model, method, bundle, folder, (parent,))


def experience(model: Model, owner: str, generator: torch.Generator) -> None:
    """What an experience does to the weights, as far as their bytes are concerned."""
    with torch.no_grad():
        for weight in model.parameters():
            size = CHANGE * float(weight.std()) if weight.numel() > 1 else CHANGE
            weight.add_(max(size, 1e-4) * torch.randn(weight.shape, generator=generator))
    for block in model.blocks:
        block.usage[block.bank.frozen :] = torch.rand(block.trainable_experts, generator=generator) + 1
        block.freeze_used(owner)


def saved(model: Model, method: MethodConfig, bundle: Bundle, folder: Path, parents: tuple[Pack, ...]) -> Pack:
    """A pack of ``model``."""
    contents = contents_of(
        model,
        method,
        bundle_digest=bundle.digest,
        labels=[f"class {number}" for number in range(model.head.classes)],
        parents=parents,
        sample_counts={},
        experiences=(),
        evaluation={},
    )
    return read_pack(folder / write_pack(folder, contents))


def sizes(child: Pack, parent: Pack) -> dict[str, int]:
    """Bytes of the archives of ``child``: whole (int4 tells nothing by itself), and as a delta."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, found = Path(scratch), {}
        for precision in PRECISIONS:
            whole = child.path if precision == "fp32" else folder / write_reduced(child, precision, folder)
            found[f"whole_{precision}_bytes"] = archived(whole, None, folder / "archive")
        for precision, pack in versions(child, parent, folder).items():
            found[f"delta_{precision}_bytes"] = archived(pack.path, parent.path, folder / "archive")
        return found


def archived(pack: Path, base: Path | None, file: Path) -> int:
    """Bytes of the archive of ``pack``."""
    write_archive(pack, file, parent=base)
    return file.stat().st_size


def versions(child: Pack, parent: Pack, folder: Path) -> dict[str, Pack]:
    """``child`` in each precision."""
    made = {"fp32": child}
    for precision in ("fp16", "int8", "int4"):
        made[precision] = read_pack(folder / write_reduced(child, precision, folder, keep_to=parent))
    return made


def answers(home: Path) -> None:
    """Sizes and answers of what a quickstart learned last."""
    place = Place(home)
    workspace = Workspace(place.workspace).open()
    child = read_pack(workspace.resolve_pack("current"))
    parent = read_pack(workspace.packs_path / child.manifest.parents[0].digest)
    folders = [read_task(place.samples / TEST_FOLDER / task, min_samples=1) for task in TASKS]
    samples = [view for folder in folders for sample in decode_task(folder)[0] for view in views(sample)]
    costs: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as scratch, Runtime.open(workspace.bundle_path, child.path) as runtime:
        first: list[Prediction] = []
        for precision, pack in versions(child, parent, Path(scratch)).items():
            runtime.load_pack(pack.path)
            found = runtime.predict_batch(samples)
            first = first or found
            costs[precision] = compared(found, first, samples)
    classes = len(child.manifest.labels) - len(parent.manifest.labels)
    report("pack_answers", new_classes=classes, samples=len(samples), **sizes(child, parent), **costs)


def compared(found: list[Prediction], first: list[Prediction], samples: list[Sample]) -> dict[str, float]:
    """Accuracy of ``found``, and how far it is from the answers of fp32."""
    right = sum(one.label == sample.label for one, sample in zip(found, samples, strict=True))
    same = sum(one.label == other.label for one, other in zip(found, first, strict=True))
    moved = sum(
        abs(dict(one.top_k(100))[other.label] - dict(other.top_k(100))[other.label])
        for one, other in zip(found, first, strict=True)
    )
    count = len(samples)
    return {
        "accuracy": round(right / count, 4),
        "same_answer": round(same / count, 4),
        "probability_moved": round(moved / count, 5),
    }


if __name__ == "__main__":
    main()
