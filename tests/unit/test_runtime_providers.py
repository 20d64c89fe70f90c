"""Provider choice, options, engine keys and shape profiles: what can be held without a GPU."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnxruntime as ort
import pytest

from mmcl_edge.errors import ProviderError
from mmcl_edge.runtime.profiles import MAX_BATCH, feature_profile, stem_profile
from mmcl_edge.runtime.providers import PROVIDERS, ProviderChoice, check_available, engine_key, options_of
from mmcl_edge.runtime.sessions import SessionFactory
from mmcl_edge.runtime.threads import ThreadPlan
from tests.conftest import TinyBundle

PROFILE = {"x": ((1, 50, 8), (1, 250, 8), (64, 1500, 8))}


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("auto", ProviderChoice("auto")),
        ("cpu", ProviderChoice("cpu")),
        ("cuda:1", ProviderChoice("cuda", device=1)),
        ("cuda,memory=512", ProviderChoice("cuda", memory_bytes=512 << 20)),
        ("tensorrt:2,memory=4096", ProviderChoice("tensorrt", device=2, memory_bytes=4096 << 20)),
    ],
)
def test_a_choice_is_read(text: str, choice: ProviderChoice):
    assert ProviderChoice.parse(text) == choice


@pytest.mark.parametrize(
    "text", ["", "gpu", "cuda:", "cuda:x", "cuda,memory=", "cuda,memory=-1", "cuda,memory=0", "CUDA", "cpu cuda"]
)
def test_another_form_is_a_sentence(text: str):
    with pytest.raises(ProviderError, match="should be one of auto, cpu, cuda, tensorrt"):
        ProviderChoice.parse(text)


@pytest.mark.parametrize("text", ["cpu:1", "cpu,memory=512"])
def test_a_limit_that_would_be_ignored_is_refused(text: str):
    with pytest.raises(ProviderError, match="are for GPUs, but the provider is 'cpu"):
        ProviderChoice.parse(text)


def test_what_this_build_lacks_is_refused_unless_allowed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    for name in ("cuda", "tensorrt"):
        with pytest.raises(ProviderError, match="ONNX Runtime offers CPUExecutionProvider here"):
            check_available(ProviderChoice(name), allow_fallback=False)
        check_available(ProviderChoice(name), allow_fallback=True)
    check_available(ProviderChoice("auto"), allow_fallback=False)


def test_the_memory_cap_reaches_the_provider(tmp_path: Path):
    choice = ProviderChoice.parse("cuda:1,memory=256")
    options = options_of(PROVIDERS["cuda"], choice, model=tmp_path / "g.onnx", profile=PROFILE, engines=None)
    assert options == {
        "device_id": "1",
        "arena_extend_strategy": "kSameAsRequested",
        "gpu_mem_limit": str(256 << 20),
    }
    assert options_of(PROVIDERS["cpu"], choice, model=tmp_path / "g.onnx", profile=PROFILE, engines=None) == {}


def test_engines_have_explicit_profiles_and_a_folder_of_their_own(tmp_path: Path):
    model = tmp_path / "g.onnx"
    model.write_bytes(b"graph")
    choice = ProviderChoice("tensorrt", memory_bytes=1 << 20)
    options = options_of(PROVIDERS["tensorrt"], choice, model=model, profile=PROFILE, engines=tmp_path / "engines")
    assert options["trt_profile_min_shapes"] == "x:1x50x8"
    assert options["trt_profile_opt_shapes"] == "x:1x250x8"
    assert options["trt_profile_max_shapes"] == "x:64x1500x8"
    assert options["trt_max_workspace_size"] == str(1 << 20)
    folder = Path(options["trt_engine_cache_path"])
    assert folder.is_dir()
    assert folder.parent == tmp_path / "engines"


def test_an_engine_key_changes_with_all_it_depends_on(tmp_path: Path):
    one, other = tmp_path / "one.onnx", tmp_path / "other.onnx"
    one.write_bytes(b"one")
    other.write_bytes(b"other")
    keys = [
        engine_key(one, "10.3.0", "Orin (nvgpu)-sm87"),
        engine_key(other, "10.3.0", "Orin (nvgpu)-sm87"),
        engine_key(one, "10.4.0", "Orin (nvgpu)-sm87"),
        engine_key(one, "10.3.0", "RTX-sm89"),
    ]
    assert len(set(keys)) == len(keys)
    assert all("/" not in key and " " not in key for key in keys)
    assert engine_key(one, "10.3.0", "RTX-sm89") == keys[3]


def test_an_engine_key_changes_with_the_weights_that_the_graph_keeps_elsewhere(tiny: TinyBundle, tmp_path: Path):
    bundle = tiny()
    entry = bundle.manifest.backbones[0]
    assert entry.weights is not None
    folder = tmp_path / "bundle"
    shutil.copytree(bundle.path, folder)
    graph, weights = folder / entry.stem.path, folder / entry.weights.path
    before = engine_key(graph, "10.3.0", "RTX-sm89")
    assert before == engine_key(bundle.file(entry.stem), "10.3.0", "RTX-sm89")
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert engine_key(graph, "10.3.0", "RTX-sm89") != before


@pytest.mark.parametrize("pair", ["cnn", "vit"])
def test_profiles_fit_the_graphs(tiny: TinyBundle, pair: str):
    bundle = tiny(pair)
    factory = SessionFactory(ThreadPlan(onnx=1), provider="cpu")
    for entry in bundle.manifest.backbones:
        profiles = [(entry.stem, stem_profile(entry))]
        profiles += [(one.forward, feature_profile(one.input, entry.input)) for one in (*entry.segments, entry.output)]
        for file, profile in profiles:
            session = factory.create(bundle.file(file))
            assert {node.name for node in session.get_inputs()} == set(profile)
            for node in session.get_inputs():
                smallest, usual, largest = profile[node.name]
                assert len(node.shape) == len(smallest) == len(usual) == len(largest)
                assert all(a <= b <= c for a, b, c in zip(smallest, usual, largest, strict=True))
                fixed = [(size, *sizes) for size, *sizes in zip(node.shape, smallest, usual, largest, strict=True)]
                assert all(len(set(row)) == 1 for row in fixed if isinstance(row[0], int)), (file.path, fixed)
                assert largest[0] == MAX_BATCH
