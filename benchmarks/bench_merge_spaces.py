"""Merged shared spaces on real data: against each device's own, one device that learned all, and plain averages.

The data are the pictures, sound effects and speech of ``stamps``. A score is the mean of R@1, R@5 and R@10, both ways,
in percent, on the test split: *seen* of text and a modality, *unseen* of two modalities that no pair ever joined.

modalities   devices went on from one release; each learned another modality. ``central`` learned all, one by one.
shares       devices went on from one release; each learned the same modality from its share of the things.
             ``not_stretched`` is the plain mean of their maps, ``all_directions`` keeps more than ``front_dim`` says.
apart        no release: each device began anew, with another modality, on half of the things, or on all. ``brought``
             leads the second device's speech into the first one's text by the exact map between their texts.
codes        the first and the third once more, told by codes: the merged codebook, that of the first device alone, and
             both averaged row by row; also the residual (share of vectors that codes do not tell) of what each learned.
poison       shares, a quarter of the devices poisoned; ``honest`` is the merge of the others.

``average`` is the peer: every tensor averaged by name, rows and columns that a device lacks counted as zeros.
``moved`` is the mean of one minus the cosine of a modality's embeddings before and after. One JSON line a run.

    python benchmarks/bench_merge_spaces.py --bundle DIR [--data DIR] [--features DIR] [--seeds 0,1,2] [--parts ...]

The bundle needs a backbone for text (``mmcl-edge export --text minilm``); ``--features`` keeps features between calls.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import parser, report
from torch import Tensor

from mmcl_edge.benchmark.crossmodal.tasks import PairTask, pair_name, read_task
from mmcl_edge.benchmark.place import Place
from mmcl_edge.config import CometConfig, MethodConfig
from mmcl_edge.data.crossmodal import caption_key, pair_set
from mmcl_edge.fleet.merge import merge_packs
from mmcl_edge.fleet.merge.spaces import merge_spaces
from mmcl_edge.fleet.merge.spaces_held import HeldSpace
from mmcl_edge.fleet.merge.spaces_maps import Affine, combine, mean_of
from mmcl_edge.learners.comet.learner import CometLearner
from mmcl_edge.learners.comet.reading import PairExperience
from mmcl_edge.learners.comet.storage import SpaceFacts, StoredSpace, space_of
from mmcl_edge.learners.features import FeatureCache
from mmcl_edge.learners.host import Host
from mmcl_edge.learners.persistence import alone
from mmcl_edge.learners.protocol import MEMORY
from mmcl_edge.learners.retrieval import both_ways
from mmcl_edge.packs import read_pack, write_pack
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.types import TEXT

MODALITIES = ("image", "speech", "sound")
COUNTS = (2, 4, 8)
POISONED = 4
"""One in so many devices."""
Scores = dict[str, float]
Change = Callable[[str, Tensor], Tensor]


@dataclass(frozen=True)
class Bench:
    """The task on one bundle's features, which are worked out once."""

    runtime: Runtime
    task: PairTask
    features: FeatureCache
    scratch: Path

    def learned(self, seed: int, *stages: PairExperience, start: StoredSpace | None = None) -> StoredSpace:
        """The space of a device after ``stages``, on top of ``start``."""
        host = Host(self.runtime.backbones, MethodConfig(), self.runtime.preprocess, seed, self.features)
        learner = CometLearner(host, CometConfig()) if start is None else start.learner(host)
        pairs = {} if start is None else dict(start.facts.pairs)
        names = [] if start is None else list(start.facts.stages)
        for stage in stages:
            assert stage.pairs is not None
            learner.observe(stage)
            pairs[stage.pairs.modality] = pairs.get(stage.pairs.modality, 0) + len(stage.pairs)
            names.append(stage.name)
        return StoredSpace.of(learner, stages=names, pairs=pairs)

    def stage(self, modality: str, things: Sequence[str] | None = None) -> PairExperience:
        """The training pairs of a modality that show ``things``."""
        view = self.task.train[modality]
        rows = [n for n, one in enumerate(view.captions) if things is None or caption_key(one) in things]
        told = [(view.captions[n],) for n in rows]
        return PairExperience.of(pair_set([view.samples[n] for n in rows], modality, captions=told))

    def things(self, seed: int, *modalities: str) -> list[str]:
        """What the training pairs of ``modalities`` show, in a random order."""
        found = sorted({caption_key(one) for name in modalities for one in self.task.train[name].captions})
        return [found[n] for n in np.random.default_rng(seed).permutation(len(found))]

    def pack(self, space: StoredSpace) -> Path:
        """A pack that holds the space alone."""
        contents = alone(space, bundle_digest=self.runtime.bundle.family)
        return self.scratch / write_pack(self.scratch, contents)

    def merged(self, spaces: Sequence[StoredSpace], base: StoredSpace | None = None, method: str = "mean") -> Merged:
        """What ``mmcl-edge merge`` makes of them, in how many seconds, and which spaces it names."""
        packs = [self.pack(one) for one in spaces]
        origin, started = None if base is None else self.pack(base), time.perf_counter()
        found = merge_packs(packs, self.scratch / "merged", method=method, base=origin)
        assert found.path is not None
        space = space_of(read_pack(found.path))
        assert space is not None
        named = {packs.index(self.scratch / one.digest) for one in found.outliers or ()}
        named |= {n for n, pack in enumerate(packs) if any(pack.name[:16] in note for note in found.notes)}
        return Merged(space, time.perf_counter() - started, frozenset(named))

    def embedded(self, space: StoredSpace) -> dict[str, Tensor]:
        """Unit vectors of the test split, by modality."""
        host = Host(self.runtime.backbones, MethodConfig(), self.runtime.preprocess, 0, self.features)
        learner = space.learner(host)
        return {name: learner.embed(self.task.test[name].samples, name) for name in space.facts.modalities}

    def residual(self, space: StoredSpace, modality: str) -> float:
        """Share of the vectors of the test split that codes do not tell."""
        host = Host(self.runtime.backbones, MethodConfig(), self.runtime.preprocess, 0, self.features)
        learner = space.learner(host)
        vectors = learner.vectors(self.task.test[modality].samples, modality).flatten(0, 1)
        return round(learner.space.codebook.residual(vectors), 3)

    def scores(self, space: StoredSpace) -> Scores:
        """The score of every pair of modalities."""
        found, groups = self.embedded(space), {}
        for name in found:
            groups[name] = [caption_key(one) for one in self.task.test[name].captions]
        return {
            pair_name(one, other): 100
            * float(
                np.mean(
                    [
                        list(way.recall.values())
                        for way in both_ways(found[one].numpy(), found[other].numpy(), groups[one], groups[other])
                    ]
                )
            )
            for one, other in combinations(found, 2)
        }


@dataclass(frozen=True)
class Merged:
    """A merged space, the seconds it took, and the numbers of the spaces that were named as outliers."""

    space: StoredSpace
    seconds: float
    named: frozenset[int]


def split(scores: Scores) -> dict[str, float]:
    """Means over seen and unseen pairs."""
    seen = [value for name, value in scores.items() if TEXT in name.split("-")]
    unseen = [value for name, value in scores.items() if TEXT not in name.split("-")]
    return {"seen": mean(seen)} | ({"unseen": mean(unseen)} if unseen else {})


def mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 1)


def best_of(every: Sequence[Scores]) -> Scores:
    """Of every pair, what the devices that know both modalities have, on average."""
    names = sorted({name for one in every for name in one})
    return {name: float(np.mean([one[name] for one in every if name in one])) for name in names}


def averaged(spaces: Sequence[StoredSpace]) -> StoredSpace:
    """The peer: tensors averaged by name over those that have them, missing rows and columns counted as zeros."""
    tensors: dict[str, Tensor] = {}
    for name in sorted({name for one in spaces for name in one.tensors}):
        values = [one.tensors[name] for one in spaces if name in one.tensors]
        shape = [max(lengths) for lengths in zip(*(value.shape for value in values), strict=True)]
        total = torch.zeros(shape)
        for value in values:
            total[tuple(slice(0, length) for length in value.shape)] += value
        tensors[name] = total / len(values)
    facts = [one.facts for one in spaces]
    told = {
        "modalities": tuple(dict.fromkeys(name for one in facts for name in one.modalities)),
        "mediators": (TEXT,),
        "experts_frozen": len(tensors["cmoe.frozen_route"]),
        "codes_settled": len(tensors["codebook.codes"]),
        "stages": facts[0].stages,
        "pairs": {},
    }
    return StoredSpace(spaces[0].config, tensors, SpaceFacts.model_validate(told)).checked()


def modalities(bench: Bench, seed: int) -> dict[str, Any]:
    """Each device learned another modality on top of one release."""
    first, *others = (MODALITIES[(seed + n) % 3] for n in range(3))
    base = bench.learned(seed, bench.stage(first))
    devices = [bench.learned(seed, bench.stage(name), start=base) for name in others]
    central = bench.learned(seed, *(bench.stage(name) for name in others), start=base)
    merged, unknown = bench.merged(devices, base), bench.merged(devices)
    alone, whole = best_of([bench.scores(one) for one in devices]), bench.scores(merged.space)
    before, after = [bench.embedded(one) for one in devices], bench.embedded(merged.space)
    moved = {
        name: round(max(float((1 - (one[name] * after[name]).sum(dim=1)).mean()) for one in before if name in one), 4)
        for name in after
    }
    common = {name: whole[name] for name in alone}
    return {
        "release": first,
        "devices": split(alone),
        "merged_of_the_same": split(common),
        "merged": split(whole),
        "without_base": split(bench.scores(unknown.space)),
        "average": split(bench.scores(averaged(devices))),
        "central": split(bench.scores(central)),
        "moved": moved,
        "merge_s": round(merged.seconds, 2),
    }


def shares(bench: Bench, seed: int, count: int, modality: str) -> dict[str, Any]:
    """Each device learned the same modality from its share of the things."""
    first = next(name for name in ("image", "speech") if name != modality)
    base = bench.learned(seed, bench.stage(first))
    things = [list(one) for one in np.array_split(np.array(bench.things(seed, modality)), count)]
    devices = [bench.learned(seed, bench.stage(modality, one), start=base) for one in things]
    central = bench.learned(seed, bench.stage(modality), start=base)
    merged = bench.merged(devices, base)
    parts = [(1 / count, 1.0, branch_of(one, modality)) for one in devices]
    plain = combine(mean_of(parts, stretched=False), parts[0][2], base.config.front_dim)
    wide = [HeldSpace(str(n), 1.0, widened(one)) for n, one in enumerate(devices)]
    exact = merge_spaces(wide, base=HeldSpace("base", 0.0, widened(base))).stored
    own = {pair_name(modality, name) for name in (TEXT, first)}
    found = {
        "devices": best_of([bench.scores(one) for one in devices]),
        "merged": bench.scores(merged.space),
        "not_stretched": bench.scores(with_branch(merged.space, modality, plain)),
        "all_directions": bench.scores(exact),
        "one_alone": bench.scores(bench.merged(devices, base, "union").space),
        "average": bench.scores(averaged(devices)),
        "central": bench.scores(central),
    }
    told = {name: split({pair: value for pair, value in one.items() if pair in own}) for name, one in found.items()}
    return {"modality": modality, "count": count, **told, "merge_s": round(merged.seconds, 2)}


def widened(space: StoredSpace) -> StoredSpace:
    """The same, whose merge may keep every direction of a combined map."""
    width = space.config.slots * space.config.dim
    return StoredSpace(space.config.model_copy(update={"front_dim": width}), space.tensors, space.facts)


def apart(bench: Bench, seed: int, *, halves: bool) -> dict[str, Any]:
    """Two devices that began anew, one with pictures, one with speech."""
    things = bench.things(seed, "image", "speech")
    parts = (things[::2], things[1::2]) if halves else (None, None)
    stages = [bench.stage(name, part) for name, part in zip(("image", "speech"), parts, strict=True)]
    devices = [bench.learned(seed, one) for one in stages]
    merged = bench.merged(devices).space
    found = {
        "devices": best_of([bench.scores(one) for one in devices]),
        "merged": bench.scores(merged),
        "brought": bench.scores(brought(merged, devices)),
        "average": bench.scores(averaged(devices)),
        "central": bench.scores(bench.learned(seed, *stages)),
    }
    a, b = (Affine.of(branch_of(one, TEXT)).matrix for one in devices)
    return {
        "things": "halves" if halves else "all",
        **{name: split(one) for name, one in found.items()},
        "text_cosine": round(float((a * b).sum() / a.norm() / b.norm()), 4),
    }


def brought(merged: StoredSpace, devices: Sequence[StoredSpace]) -> StoredSpace:
    """``merged`` with the first device's text, and the second's speech led into that by the exact map between texts.

    With z the first text's map of features and w the second's, z = w M + t, M and t follow from both. Embeddings have
    unit length, so w stands for what the second's embeddings are times the usual length of its map.
    """
    ours, theirs = (branch_of(one, TEXT) for one in devices)
    a, b = Affine.of(ours), Affine.of(theirs)
    lead = torch.linalg.solve(b.matrix, a.matrix)
    shift = a.offset - b.offset @ lead
    speech = branch_of(devices[1], "speech")
    length = 1 / devices[1].config.slots ** 0.5
    weight = length * speech["project.weight"].double().T @ lead
    bias = length * speech["project.bias"].double() @ lead + shift
    led = speech | {"project.weight": weight.T.float(), "project.bias": bias.float()}
    return with_branch(with_branch(merged, TEXT, ours), "speech", led)


def branch_of(space: StoredSpace, modality: str) -> dict[str, Tensor]:
    at = f"branches.{modality}."
    return {name.removeprefix(at): value for name, value in space.tensors.items() if name.startswith(at)}


def with_branch(space: StoredSpace, modality: str, branch: Mapping[str, Tensor]) -> StoredSpace:
    named = {f"branches.{modality}.{name}": value for name, value in branch.items()}
    return replace(space, tensors={**space.tensors, **named})


def codes(bench: Bench, seed: int, *, release: bool) -> dict[str, Any]:
    """Two devices, told by codes instead of vectors: what matching makes of their codebooks."""
    base = bench.learned(seed, bench.stage("image")) if release else None
    names = ("speech", "sound") if release else ("image", "speech")
    devices = [bench.learned(seed, bench.stage(name), start=base) for name in names]
    merged = bench.merged(devices, base).space
    books = {
        "merged": merged,
        "first_alone": with_book(merged, devices[0]),
        "average": with_book(merged, averaged(devices)),
    }
    found = {"devices": split(best_of([bench.scores(by_codes(one)) for one in devices]))}
    found |= {name: split(bench.scores(by_codes(one))) for name, one in books.items()}
    found["residual_devices"] = {n: bench.residual(one, n) for n, one in zip(names, devices, strict=True)}
    for name, one in books.items():
        found[f"residual_{name}"] = {modality: bench.residual(one, modality) for modality in names}
    return {"release": release, "codes": len(merged.tensors["codebook.codes"]), **found}


def by_codes(space: StoredSpace) -> StoredSpace:
    """The same, whose embeddings are the mean vectors of codes."""
    return replace(space, config=space.config.model_copy(update={"embedding": "codes"}))


def with_book(space: StoredSpace, other: StoredSpace) -> StoredSpace:
    """The space with the codebook of another, and no Gaussians, which would not fit it."""
    book = {name: value for name, value in other.tensors.items() if name.startswith("codebook.")}
    kept = {name: value for name, value in space.tensors.items() if not name.startswith(MEMORY)}
    facts = space.facts.model_copy(update={"codes_settled": len(book["codebook.codes"])})
    return StoredSpace(space.config, kept | book, facts)


def poison(bench: Bench, seed: int, kind: str) -> dict[str, Any]:
    """Shares of speech, a quarter of the devices poisoned."""
    count = max(COUNTS)
    base = bench.learned(seed, bench.stage("image"))
    parts = [list(one) for one in np.array_split(np.array(bench.things(seed, "speech")), count)]
    devices = [bench.learned(seed, bench.stage("speech", one), start=base) for one in parts]
    bad = set(range(count // POISONED))
    every = [POISONS[kind](one) if n in bad else one for n, one in enumerate(devices)]
    found: dict[str, Any] = {}
    for method in ("mean", "median", "krum"):
        merged = bench.merged(every, base, method)
        found[method] = bench.scores(merged.space)["text-speech"]
    honest = bench.scores(bench.merged(devices[len(bad) :], base).space)["text-speech"]
    return {
        "kind": kind,
        **{name: round(value, 1) for name, value in found.items()},
        "honest": round(honest, 1),
        "named": len(merged.named & bad),
        "poisoned": len(bad),
        "falsely_named": len(merged.named - bad),
    }


def changed(change: Change, **facts: Any) -> Callable[[StoredSpace], StoredSpace]:
    """Poison of what leads speech into the space."""

    def poisoned(space: StoredSpace) -> StoredSpace:
        at = "branches.speech.project."
        tensors = {n: change(n, v) if n.startswith(at) else v for n, v in space.tensors.items()}
        return StoredSpace(space.config, tensors, space.facts.model_copy(update=facts))

    return poisoned


def greedy(space: StoredSpace) -> StoredSpace:
    """The last experts with gates that draw every sample, and answers far from what they were."""
    parts = {"cmoe.frozen_route": 1_000.0, "cmoe.frozen_up": 1_000.0}
    tensors = dict(space.tensors)
    for name, factor in parts.items():
        tensors[name] = tensors[name].clone()
        tensors[name][-space.config.experts :] *= -factor
    return StoredSpace(space.config, tensors, space.facts)


POISONS: Mapping[str, Callable[[StoredSpace], StoredSpace]] = {
    "none": lambda space: space,
    "signs flipped": changed(lambda name, value: -value),
    "x 1,000, and a thousand million pairs claimed": changed(
        lambda name, value: -1000 * value, pairs={"image": 547, "speech": 10**9}
    ),
    "experts that draw every sample": greedy,
    "slots exchanged": changed(lambda name, value: value.roll(len(value) // 6, dims=0)),
}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--data", type=Path, help="the folder of datasets; default: MMCL_EDGE_DATA")
    options.add_argument("--features", type=Path, help="keeps features between calls")
    options.add_argument("--seeds", default="0,1,2")
    options.add_argument("--parts", default="modalities,shares,apart,codes,poison")
    arguments = options.parse_args()
    if arguments.bundle is None:
        options.error("--bundle is needed: one with a backbone for text")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        place = Place(arguments.bundle, arguments.features or scratch / "features", arguments.data)
        bench = Bench(place.runtime, read_task("stamps", arguments.data), place.features, scratch)
        for seed in map(int, arguments.seeds.split(",")):
            for part in arguments.parts.split(","):
                for row in PARTS[part](bench, seed):
                    report(f"merge_spaces {part}", seed=seed, **row)


PARTS: Mapping[str, Callable[[Bench, int], Iterator[dict[str, Any]]]] = {
    "modalities": lambda bench, seed: iter([modalities(bench, seed)]),
    "shares": lambda bench, seed: (shares(bench, seed, n, name) for name in ("speech", "image") for n in COUNTS),
    "apart": lambda bench, seed: (apart(bench, seed, halves=halves) for halves in (True, False)),
    "codes": lambda bench, seed: (codes(bench, seed, release=release) for release in (True, False)),
    "poison": lambda bench, seed: (poison(bench, seed, kind) for kind in POISONS),
}


if __name__ == "__main__":
    main()
