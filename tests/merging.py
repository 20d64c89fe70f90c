"""Small packs with the names of real ones, for tests of merging: a base, and devices that went on from it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from mmcl_edge.config import AdapterConfig, HeadConfig, MethodConfig
from mmcl_edge.packs import Expert, PackContents, Parent, read_pack, write_pack
from mmcl_edge.packs.manifest import TENSORS_NAME

WIDTHS = {"audio": 6, "frames": 10}
RANK, LATENTS, JOINT, BLOCKS, EXPERTS = 4, 2, 8, 2, 3
Arrays = dict[str, np.ndarray]


def method() -> MethodConfig:
    return MethodConfig(
        adapter=AdapterConfig(experts=EXPERTS, rank=RANK, latents=LATENTS, active_experts=2),
        head=HeadConfig(joint_dim=JOINT, fusion_hidden=12),
    )


def expert_tensors(rng: np.random.Generator) -> Arrays:
    """One expert: ``<modality>.<part>`` to values."""
    shapes = {
        f"{modality}.{part}": shape
        for modality, width in WIDTHS.items()
        for part, shape in {
            "down": (RANK, width),
            "bias": (RANK,),
            "up": (RANK, width),
            "latents": (LATENTS, RANK),
        }.items()
    }
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def content_id(block: int, tensors: Mapping[str, np.ndarray]) -> str:
    """The id of a frozen expert with these tensors (decision 4)."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(name.encode() + value.tobytes())
    return f"b{block}-{digest.hexdigest()[:12]}"


class Device:
    """Tensors, labels and experts of one pack, to be changed and written.

    ``Device(rng)`` is a fresh one with trainable experts; ``other(rng, noise)`` is one that was trained on from it.
    """

    def __init__(self, rng: np.random.Generator, labels: Sequence[str] = ("ant", "bee")) -> None:
        self.labels = list(labels)
        self.experts: dict[int, list[Expert]] = {}
        self.shared: Arrays = {
            "fusion.mlp.0.weight": rng.normal(size=(12, 18)).astype(np.float32),
            "fusion.mlp.0.bias": rng.normal(size=12).astype(np.float32),
            "head.log_scale": np.array(2.7, np.float32),
        }
        self.head = {name: rng.normal(size=JOINT).astype(np.float32) for name in labels}
        self.bodies: dict[tuple[int, str], Arrays] = {}
        self.rows: dict[tuple[int, str], np.ndarray] = {}
        for block in range(BLOCKS):
            for number in range(EXPERTS):
                self.add_expert(rng, block, f"b{block}-fresh-{number}")

    def add_expert(self, rng: np.random.Generator, block: int, name: str) -> None:
        self.experts.setdefault(block, []).append(Expert(id=name, block=block))
        self.bodies[block, name] = expert_tensors(rng)
        self.rows[block, name] = rng.normal(size=sum(WIDTHS.values()) + 2).astype(np.float32)

    def add_label(self, rng: np.random.Generator, name: str) -> None:
        self.labels.append(name)
        self.head[name] = rng.normal(size=JOINT).astype(np.float32)

    def freeze(self, block: int, name: str, owner: str) -> str:
        """Freeze an expert: it moves to the front and is named by its content; returns the new id."""
        body, row = self.bodies.pop((block, name)), self.rows.pop((block, name))
        new = content_id(block, body)
        self.bodies[block, new], self.rows[block, new] = body, row
        rest = [one for one in self.experts[block] if one.id != name]
        frozen = [one for one in rest if one.frozen]
        frozen.append(Expert(id=new, block=block, frozen=True, owner=owner))
        self.experts[block] = frozen + [one for one in rest if not one.frozen]
        return new

    def other(self, rng: np.random.Generator, noise: float = 0.1) -> Device:
        """A device that went on from this one: everything that is not frozen moved a little."""
        found = object.__new__(Device)
        frozen = {(one.block, one.id) for ones in self.experts.values() for one in ones if one.frozen}

        def moved(value: np.ndarray) -> np.ndarray:
            return np.asarray(value + noise * rng.normal(size=value.shape), np.float32)

        found.labels = list(self.labels)
        found.experts = {block: list(ones) for block, ones in self.experts.items()}
        found.shared = {name: moved(value) for name, value in self.shared.items()}
        found.head = {name: moved(value) for name, value in self.head.items()}
        found.rows = {key: moved(value) for key, value in self.rows.items()}
        found.bodies = {
            key: dict(body) if key in frozen else {name: moved(value) for name, value in body.items()}
            for key, body in self.bodies.items()
        }
        return found

    def tensors(self) -> Arrays:
        found = dict(self.shared)
        if self.labels:
            found["head.weight"] = np.stack([self.head[name] for name in self.labels])
        for block, ones in self.experts.items():
            found[f"blocks.{block}.router"] = np.stack([self.rows[block, one.id] for one in ones])
            for one in ones:
                for name, value in self.bodies[block, one.id].items():
                    found[f"blocks.{block}.experts.{one.id}.{name}"] = value
        return found

    def contents(self, *parents: str, **changes: Any) -> PackContents:
        fields: dict[str, Any] = {
            "tensors": self.tensors(),
            "config": method(),
            "bundle_digest": "a" * 64,
            "labels": tuple(self.labels),
            "experts": tuple(one for block in sorted(self.experts) for one in self.experts[block]),
            "parents": tuple(Parent(digest=digest) for digest in parents),
            "version": 2 if parents else 1,
            "sample_counts": {name: 5 for name in self.labels},
            "experiences": ("first",),
        }
        return PackContents(**{**fields, **changes})

    def write(self, folder: Path, *parents: str, **changes: Any) -> Path:
        return folder / write_pack(folder, self.contents(*parents, **changes))


def fleet(folder: Path, count: int, *, seed: int = 0, noise: float = 0.1) -> tuple[Path, list[Path], list[Device]]:
    """A base, packs of ``count`` devices that went on from it, and the devices."""
    rng = np.random.default_rng(seed)
    start = Device(rng)
    base = start.write(folder / "base")
    devices = [start.other(rng, noise) for _ in range(count)]
    return base, [device.write(folder / "packs", base.name) for device in devices], devices


def values(pack: Path) -> Arrays:
    """Tensors of a pack that reads back whole."""
    read_pack(pack, expected_digest=pack.name)
    return load_file(pack / TENSORS_NAME)


def stacked(devices: Sequence[Device], name: str) -> np.ndarray:
    """One tensor of all devices, ``(n, d)`` float64."""
    return np.stack([device.tensors()[name].ravel() for device in devices]).astype(np.float64)
