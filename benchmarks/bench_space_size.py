"""How large is a pack with a shared space, and what do smaller weights cost in retrieval?

The space learns the pictures, sound effects and speech of ``stamps``, one after the other, in three orders. Of what
each order leaves, the row gives bytes of an archive, whole and as a delta against the pack before the last stage, in
each precision. Against fp32 (int4 as a delta, the others whole), on the test split: the largest distance of an
embedding (one minus cosine), and of all 36 figures of retrieval (six pairs of modalities both ways, R@1, R@5, R@10) how
far they moved, in points: the mean, the mean magnitude, the largest. ``learned_on`` is the change of their mean where
the last stage is learned on the int8 version of what was before.

A second row tells what ``sync`` does to a modality that a release lacks: release and device both learned the first of
the order, then one the second and the other the third. Of the merged space (``fleet.carry_space``), the largest
distance of an embedding from those that release and device gave, and the change of the mean recall of each pair of
modalities that one of them knew: the least and the most.

    python benchmarks/bench_space_size.py --bundle DIR [--data DIR]

The bundle needs a backbone for text (``mmcl-edge export --text minilm``).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
from bench_pack_size import archived, sizes, versions
from common import parser, report
from numpy.typing import NDArray

from mmcl_edge.benchmark.crossmodal.tasks import TASKS, PairTask, read_task
from mmcl_edge.config import CometConfig, MethodConfig
from mmcl_edge.data.crossmodal import caption_key
from mmcl_edge.fleet.carry_space import merged_space
from mmcl_edge.learners.comet.learner import CometLearner
from mmcl_edge.learners.comet.storage import StoredSpace, space_of
from mmcl_edge.learners.features import FeatureCache
from mmcl_edge.learners.host import Host
from mmcl_edge.learners.persistence import alone
from mmcl_edge.learners.retrieval import both_ways
from mmcl_edge.packs import Pack, next_version, read_pack, write_pack
from mmcl_edge.packs.precision import Reduction, write_reduced
from mmcl_edge.runtime.engine import Runtime

WHOLE: tuple[Reduction, ...] = ("fp16", "int8")
Vectors = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Bench:
    """The task on one bundle's features, which are worked out once."""

    runtime: Runtime
    task: PairTask
    features: FeatureCache

    def host(self, seed: int) -> Host:
        """What a learner needs."""
        return Host(self.runtime.backbones, MethodConfig(), self.runtime.preprocess, seed, self.features)

    def learned(self, folder: Path, order: Sequence[str], seed: int) -> tuple[Pack, Pack]:
        """Packs before and after the last stage of ``order``."""
        learner = CometLearner(self.host(seed), CometConfig())
        for modality in order[:-1]:
            learner.observe(self.task.stage(modality))
        before = self.saved(folder, learner, order[:-1])
        return before, self.taught(folder, before, order, seed)

    def taught(self, folder: Path, before: Pack, order: Sequence[str], seed: int) -> Pack:
        """The last stage of ``order``, learned on top of ``before``."""
        stored = space_of(before)
        assert stored is not None
        learner = stored.learner(self.host(seed))
        learner.observe(self.task.stage(order[-1]))
        return self.saved(folder, learner, order, before)

    def saved(self, folder: Path, learner: CometLearner, order: Sequence[str], *parents: Pack) -> Pack:
        """A pack of what ``learner`` knows."""
        pairs = {modality: len(self.task.train[modality].samples) for modality in order}
        space = StoredSpace.of(learner, stages=tuple(order), pairs=pairs)
        contents = alone(space, bundle_digest=self.runtime.bundle.family)
        descent = tuple(one.as_parent() for one in parents)
        contents = replace(contents, parents=descent, version=next_version(parents))
        return read_pack(folder / write_pack(folder, contents))

    def embedded(self, pack: Pack) -> Vectors:
        """Unit vectors of the test split, by modality."""
        stored = space_of(pack)
        assert stored is not None
        return self.embedded_by(stored)

    def embedded_by(self, stored: StoredSpace) -> Vectors:
        """The same by a space that is in no pack."""
        learner, test = stored.learner(self.host(0)), self.task.test
        return {name: learner.embed(test[name].samples, name).numpy() for name in test if name in learner.modalities}

    def figures(self, found: Vectors) -> NDArray[np.float64]:
        """R@1, R@5, R@10 in percent, of every pair of modalities both ways."""
        groups = {name: [caption_key(one) for one in view.captions] for name, view in self.task.test.items()}
        ways = [
            way
            for one, other in combinations(found, 2)
            for way in both_ways(found[one], found[other], groups[one], groups[other])
        ]
        return 100 * np.array([list(way.recall.values()) for way in ways])


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--data", type=Path, help="the folder of datasets; default: MMCL_EDGE_DATA")
    arguments = options.parse_args()
    if arguments.bundle is None:
        options.error("--bundle is needed: one with a backbone for text")
    with Runtime.open(arguments.bundle, provider="cpu") as runtime, tempfile.TemporaryDirectory() as scratch:
        bench = Bench(runtime, read_task("stamps", arguments.data), FeatureCache())
        for seed, order in enumerate(TASKS["stamps"].orders):
            before, after = bench.learned(Path(scratch), order, seed)
            report("space_size", order=order, **sizes(after, before), **costs(bench, before, after, order, seed))
            report("space_carried", order=order, **carried(bench, Path(scratch), order, seed))


def costs(bench: Bench, before: Pack, after: Pack, order: Sequence[str], seed: int) -> dict[str, object]:
    """What each precision costs; see the module docstring."""
    exact = bench.embedded(after)
    figures = bench.figures(exact)
    found: dict[str, object] = {"mean_recall": round(float(figures.mean()), 2)}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        whole = {one: read_pack(folder / write_reduced(after, one, folder)) for one in WHOLE}
        for precision, pack in {**versions(after, before, folder), **whole}.items():
            vectors = bench.embedded(pack)
            away = max(float((1 - (vectors[name] * exact[name]).sum(axis=1)).max()) for name in exact)
            moved = bench.figures(vectors) - figures
            found[precision] = {
                "distance": float(f"{away:.2g}"),
                "moved": round(float(moved.mean()), 3),
                "moved_by": round(float(np.abs(moved).mean()), 3),
                "moved_most": round(float(np.abs(moved).max()), 2),
            }
        small = read_pack(folder / write_reduced(before, "int8", folder))
        again = bench.figures(bench.embedded(bench.taught(folder, small, order, seed)))
        found["learned_on"] = round(float((again - figures).mean()), 3)
        found["before_fp32_bytes"] = archived(before.path, None, folder / "archive")
    return found


def carried(bench: Bench, folder: Path, order: Sequence[str], seed: int) -> dict[str, object]:
    """What merging a device's modality into a released space costs both; see the module docstring."""
    learner = CometLearner(bench.host(seed), CometConfig())
    learner.observe(bench.task.stage(order[0]))
    base = bench.saved(folder, learner, order[:1])
    release, own = (bench.taught(folder, base, (order[0], last), seed) for last in order[1:])
    merged = merged_space(release, own)
    assert merged is not None
    found = bench.embedded_by(merged)
    away, moved = [], []
    for pack in (release, own):
        known = bench.embedded(pack)
        away += [float((1 - (vectors * found[name]).sum(axis=1)).max()) for name, vectors in known.items()]
        change = bench.figures({name: found[name] for name in known}) - bench.figures(known)
        moved += change.reshape(-1, 2, change.shape[1]).mean(axis=(1, 2)).tolist()
    return {"distance": round(max(away), 4), "moved_least": round(min(moved), 2), "moved_most": round(max(moved), 2)}


if __name__ == "__main__":
    main()
