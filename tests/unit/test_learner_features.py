"""What training keeps of samples: precision, budget, and that a result never depends on what was kept."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mmcl_edge.adapters.model import build_model
from mmcl_edge.config import AdapterConfig, FeaturePrecision, HeadConfig
from mmcl_edge.learners.feature_precision import decode, encode
from mmcl_edge.learners.features import FeatureCache, FeatureStore, MemoryFeatures, PreparedSamples, _digest
from mmcl_edge.learners.randomness import generator_for
from mmcl_edge.learners.shelf import Shelf
from mmcl_edge.runtime.feature_store import DiskFeatures
from mmcl_edge.types import Sample
from tests.fakes import backbones, preprocess
from tests.learning import samples

KEYS = [letter * 64 for letter in "abcdef"]
SAMPLES = [*samples("ant", 3, seed=1), *samples("bee", 2, seed=1, kind="sound"), *samples("cow", 1, seed=1)]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def tensors(number: int = 0) -> dict[str, torch.Tensor]:
    return {"audio.tokens": torch.full((10, 10), float(number)), "audio.valid": torch.tensor(number)}


@pytest.mark.parametrize(("precision", "worst"), [("fp32", 0.0), ("fp16", 2**-11), ("int8", 1 / 254)])
def test_precision_bounds_the_error_of_every_vector(precision: FeaturePrecision, worst: float):
    value = torch.randn(3, 7, 33, generator=seeded()) * torch.logspace(-3, 3, 7)[:, None]
    kept = {"m.after": value, "m.valid": torch.tensor(5)}
    found = decode(encode(kept, precision))
    assert found.keys() == kept.keys()
    assert torch.equal(found["m.valid"], kept["m.valid"])
    error = (found["m.after"].float() - value).abs()
    assert bool((error <= 1.001 * worst * value.abs().amax(dim=-1, keepdim=True)).all())
    assert (precision == "fp32") == bool((error == 0).all())


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tensors_of_any_layout_can_be_kept(precision: FeaturePrecision, tmp_path: Path):
    kept = {"m.after": torch.randn(3, 5, generator=seeded()).T}
    DiskFeatures(tmp_path, 1 << 20).put(KEYS[0], encode(kept, precision))
    found = DiskFeatures(tmp_path, 1 << 20).get(KEYS[0])
    assert found is not None
    torch.testing.assert_close(decode(found)["m.after"].float(), kept["m.after"], atol=0.02, rtol=0.01)


def test_values_beyond_half_precision_stay_single():
    large = {"m.after": torch.tensor([[1e5, 1.0]])}
    assert torch.equal(decode(encode(large, "fp16"))["m.after"], large["m.after"])


def test_int8_takes_a_quarter_and_zeros_stay_zero():
    kept = {"m.after": torch.cat([torch.zeros(1, 384), torch.ones(9, 384)])}
    stored = encode(kept, "int8")
    assert sum(value.nbytes for value in stored.values()) < 0.26 * kept["m.after"].nbytes
    assert torch.equal(decode(stored)["m.after"], kept["m.after"])


def test_a_shelf_drops_the_longest_unused_but_nothing_in_use():
    shelf = Shelf(30)
    for key in "abc":
        assert shelf.add(key, 10) == []
    assert shelf.add("d", 10) is None, "all of it is in use"
    shelf.release()
    shelf.claim("a")
    assert shelf.add("d", 10) == ["b"]
    assert shelf.add("e", 15) is None, "only c could go"
    assert shelf.used_bytes == 30
    assert shelf.add("e", 10) == ["c"]


@pytest.fixture(params=["memory", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> FeatureStore:
    return MemoryFeatures(1300) if request.param == "memory" else DiskFeatures(tmp_path / "features", 1800)


def test_a_store_keeps_what_its_budget_allows(store: FeatureStore):
    for number, key in enumerate(KEYS):
        store.put(key, tensors(number))
    found = [store.get(key) for key in KEYS]
    assert [one is not None for one in found] == [True] * 3 + [False] * 3
    for number, one in enumerate(found[:3]):
        assert all(torch.equal(one[name], value) for name, value in tensors(number).items())
    store.release()
    store.get(KEYS[0])
    store.put(KEYS[5], tensors(5))
    assert [store.get(key) is not None for key in KEYS] == [True, False, True, False, False, True]


def test_a_store_without_a_budget_keeps_nothing(tmp_path: Path):
    for store in (MemoryFeatures(0), DiskFeatures(tmp_path / "features", 0)):
        store.put(KEYS[0], tensors())
        assert store.get(KEYS[0]) is None
    assert not (tmp_path / "features").exists()


def test_files_outlive_the_process_and_the_longest_unused_goes_first(tmp_path: Path):
    first = DiskFeatures(tmp_path, 1 << 20)
    for number, key in enumerate(KEYS[:3]):
        first.put(key, tensors(number))
    for age, path in enumerate(sorted(tmp_path.iterdir())):
        os.utime(path, (1000 + age, 1000 + age))
    assert DiskFeatures(tmp_path, 1 << 20).get(KEYS[0]) is not None  # so a is the last that was used
    small = DiskFeatures(tmp_path, first.used_bytes * 2 // 3 + 1)
    assert [small.get(key) is not None for key in KEYS[:3]] == [True, False, True]
    assert small.used_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())


@pytest.mark.parametrize("damage", [b"", b"garbage", None], ids=["empty", "garbage", "one bit"])
def test_a_damaged_file_is_worked_out_anew(tmp_path: Path, damage: bytes | None):
    DiskFeatures(tmp_path, 1 << 20).put(KEYS[0], tensors())
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if damage is None else damage)
    again = DiskFeatures(tmp_path, 1 << 20)
    assert again.get(KEYS[0]) is None
    again.put(KEYS[0], tensors())
    assert again.get(KEYS[0]) is not None


def test_files_of_others_are_left_alone(tmp_path: Path):
    (tmp_path / "notes.safetensors").write_bytes(b"mine")
    DiskFeatures(tmp_path, 0)
    assert (tmp_path / "notes.safetensors").is_file()


@pytest.mark.parametrize("placement", ["inline", "ladder"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_kept_and_recomputed_samples_have_the_same_bits(placement: str, precision: FeaturePrecision, tmp_path: Path):
    config = AdapterConfig(placement=placement, experts=2, rank=4, ladder_dim=8, ladder_tokens=4, map_grid=4)
    model = build_model(config, HeadConfig(joint_dim=16), backbones(), generator=generator_for(0, "model"))
    stores = [MemoryFeatures(0), MemoryFeatures(4000), MemoryFeatures(), DiskFeatures(tmp_path, 1 << 20)]
    everything = [
        list(PreparedSamples(SAMPLES, preprocess=preprocess, encoder=model.encoder, cache=FeatureCache(one, precision)))
        for one in (*stores, DiskFeatures(tmp_path, 1 << 20))
    ]
    for others in everything[1:]:
        for one, other in zip(everything[0], others, strict=True):
            assert one.keys() == other.keys()
            assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_frozen_part_runs_once_a_sample(monkeypatch: pytest.MonkeyPatch):
    config = AdapterConfig(placement="ladder", experts=2, rank=4, ladder_dim=8, ladder_tokens=4, map_grid=4)
    model = build_model(config, HeadConfig(joint_dim=16), backbones(), generator=generator_for(0, "model"))
    calls: list[int] = []
    extract = model.encoder.extract
    monkeypatch.setattr(model.encoder, "extract", lambda inputs: calls.append(1) or extract(inputs))
    cache = FeatureCache()
    for _ in range(2):
        prepared = PreparedSamples(SAMPLES, preprocess=preprocess, encoder=model.encoder, cache=cache)
        for _ in range(3):
            assert len(list(prepared)) == len(SAMPLES)
    assert len(calls) == len(SAMPLES)


def test_motion_names_a_sample_and_its_absence_changes_no_name():
    bare = Sample(np.zeros(4, np.float32), None)
    walk, run = (replace(bare, motion=np.full((5, 6), value, np.float32)) for value in (1, 2))
    assert len({_digest(one) for one in (bare, walk, run)}) == 3
    assert _digest(walk) == _digest(replace(walk, label="walk", source="elsewhere"))
    parts = [repr(("<f4", (4,))).encode(), bytes(16), repr(None).encode()]  # as before there was motion
    assert _digest(bare) == hashlib.sha256(b"".join(parts)).digest()


def test_a_text_names_a_sample_too():
    bare = Sample(np.zeros(4, np.float32), None)
    dog, cat = (replace(bare, text=text) for text in ("a dog", "a cat"))
    assert len({_digest(one) for one in (bare, dog, cat)}) == 3
