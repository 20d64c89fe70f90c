"""Three modalities end to end: sound, pictures and motion through one bundle, from export to an adapted pack."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from mmcl_edge.bundle import Bundle
from mmcl_edge.calibration.ranges import quantize_bundle
from mmcl_edge.calibration.samples import divide
from mmcl_edge.calibration.settings import RangesConfig
from mmcl_edge.config import AdapterConfig, MethodConfig
from mmcl_edge.errors import CalibrationError, InputError
from mmcl_edge.export.fuse import fuse
from mmcl_edge.packs import read_pack
from mmcl_edge.runtime.adapt import adapt
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.fused import FusedRuntime
from mmcl_edge.runtime.replay_store import ReplayStore
from mmcl_edge.runtime.workspace import Workspace
from mmcl_edge.types import Prediction, Sample
from tests.adapting import method, request
from tests.calibrating import live_samples
from tests.conftest import TinyBundle
from tests.integration.commands import answer
from tests.integration.test_data_makers import tone, write_picture, write_sound, write_video
from tests.integration.test_runtime_gradients import check, everything_trainable, tiny_peers
from tests.motion import swing, write_motion
from tests.predicting import make_pack, picture, sound

LOOKS = {"walk": (250.0, 40, 1.5), "run": (2500.0, 200, 6.0), "sit": (900.0, 120, 0.0)}
"""Class to the pitch of its tone, the shade of its picture and the swings of its motion a second."""
COUNT = 12


def samples() -> list[Sample]:
    """Motion of three lengths, alone, beside others, and missing."""
    return [
        Sample(sound(1.0, seed=1), picture(1, seed=1), motion=swing(2.0, seed=1)),
        Sample(sound(0.5, seed=2), picture(2, seed=2), motion=swing(0.7, hz=4.0, seed=2)),
        Sample(None, None, motion=swing(3.0, hz=0.5, seed=3)),
        Sample(sound(1.0, seed=4), picture(1, seed=4)),
        Sample(None, picture(1, seed=5), motion=swing(1.1, seed=5)),
    ]


@pytest.mark.parametrize("placement", ["inline", "ladder"])
def test_gradients_through_three_backbones_equal_torch(tiny: TinyBundle, placement: str):
    alive = check(tiny("trio"), tiny_peers("trio"), placement, given=samples())
    assert alive == everything_trainable(tiny_peers("trio"), placement)
    assert any(".motion." in name for name in alive)


def close(one: Prediction, other: Prediction) -> bool:
    pairs = zip(one.probabilities.values(), other.probabilities.values(), strict=True)
    return max(abs(a - b) for a, b in pairs) <= 1e-5


def part(sample: Sample, names: tuple[str, ...]) -> Sample:
    return replace(sample, **{name: None for name in ("audio", "frames", "motion") if name not in names})


@pytest.mark.parametrize("placement", ["inline", "ladder"])
def test_predict_graphs_serve_every_set_of_three_as_the_segments_do(tmp_path: Path, tiny: TinyBundle, placement: str):
    bundle = tiny("trio")
    config = MethodConfig(adapter=AdapterConfig(placement=placement))
    with Runtime.open(bundle, make_pack(tmp_path, bundle, method=config), "cpu", 1) as runtime:
        for names in (chosen for size in (1, 2, 3) for chosen in combinations(("audio", "frames", "motion"), size)):
            given = part(samples()[1], names)  # its motion is short, so that tokens are masked
            assert runtime._current().classes.bound.takes(runtime.preprocess(given))
            alone = runtime.predict(given.audio, given.frames, motion=given.motion)
            assert all(close(alone, one) for one in runtime.predict_batch([given, given]))


def test_what_is_padded_and_what_is_missing_changes_nothing_in_a_batch(tmp_path: Path, tiny: TinyBundle):
    with Runtime.open(tiny("trio"), make_pack(tmp_path, tiny("trio")), "cpu", 1) as runtime:
        together = runtime.predict_batch(samples())
        alone = [runtime.predict(one.audio, one.frames, motion=one.motion) for one in samples()]
    assert all(close(one, other) for one, other in zip(together, alone, strict=True))
    assert not close(alone[0], alone[1])


def test_three_modalities_fuse_into_one_graph(tmp_path: Path, tiny: TinyBundle):
    pack = make_pack(tmp_path, tiny("trio"), placement="ladder")
    report = fuse(tiny("trio"), pack, tmp_path / "fused", modalities=["audio", "motion"])
    assert report.largest_difference <= 1e-4
    with FusedRuntime.open(tmp_path / "fused", "cpu", 1) as fused, Runtime.open(tiny("trio"), pack, "cpu", 1) as live:
        given = samples()[1]
        answer = fused.predict(given.audio, None, motion=given.motion)
        assert close(answer, live.predict(given.audio, None, motion=given.motion))
        with pytest.raises(InputError, match="takes audio and motion, but the sample has motion"):
            fused.predict(None, None, motion=given.motion)


def test_graphs_of_motion_become_int8(tmp_path: Path, tiny: TinyBundle):
    bundle = tiny("trio")
    float_one = Bundle(bundle.path, bundle.manifest.model_copy(update={"predict": ()}), digest=bundle.digest)
    config = RangesConfig(any_speed=True, keep_accuracy=1.0)
    moved = [replace(one, motion=swing(2.0, hz=1 + i % 4, seed=i)) for i, one in enumerate(live_samples(20))]
    data = divide(moved, float_one.manifest, config, labelled=True)
    made = quantize_bundle(float_one, data, tmp_path / "int8", config=config, threads=1)
    assert {one.graph for one in made.record.graphs if one.int8 and one.modality == "motion"} == {
        "motion/stem.onnx",
        "motion/segment_00.onnx",
        "motion/segment_01.onnx",
    }
    still = [replace(one, motion=np.ones((100, 6), np.float32)) for one in moved]
    with pytest.raises(CalibrationError, match="without any movement"):
        divide(still, float_one.manifest, config, labelled=True)


def test_motion_counts_and_may_come_at_any_rate(tmp_path: Path, tiny: TinyBundle):
    with Runtime.open(tiny("trio"), make_pack(tmp_path, tiny("trio")), "cpu", 1) as runtime:
        slow = runtime.predict(None, None, motion=swing(2.0, hz=1.0))
        assert not close(slow, runtime.predict(None, None, motion=swing(2.0, hz=5.0)))
        finer = runtime.predict(None, None, motion=swing(2.0, hz=1.0, rate_hz=400), motion_rate_hz=400)
        assert all(abs(slow.probabilities[name] - p) < 0.05 for name, p in finer.probabilities.items())
        with pytest.raises(InputError, match="6 channels, but it has 4"):
            runtime.predict(sound(), None, motion=swing(2.0)[:, :4])
        with pytest.raises(InputError, match="NaN or infinity"):
            runtime.predict(sound(), None, motion=np.full((100, 6), np.nan))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny: TinyBundle) -> Workspace:
    """A workspace that learned walking and running, then sitting."""
    workspace = Workspace(tmp_path_factory.mktemp("motion") / "home").create()
    workspace.install_bundle(tiny("trio").path)
    write_task(workspace.task_folder("moving"), "walk", "run")
    write_task(workspace.task_folder("resting"), "sit")
    for name in ("moving", "resting"):
        report = adapt(workspace, request(name, method=method(epochs=40)))
        assert report.accepted
    return workspace


def write_task(folder: Path, *labels: str) -> None:
    """In each class videos, pairs and lone tables, all with motion beside them."""
    for label in labels:
        hz, shade, swings = LOOKS[label]
        (folder / label).mkdir(parents=True)
        for number in range(COUNT):
            stem = folder / label / f"{label}_{number}"
            write_motion(stem.with_suffix(".csv"), swing(2.0, hz=swings, seed=number))
            if number % 3 == 1:
                write_video(stem.with_suffix(".mp4"), duration_s=0.6)
            elif number % 3 == 2:
                write_sound(stem.with_suffix(".wav"), tone(0.5, hz=hz))
                write_picture(stem.with_suffix(".png"), np.full((32, 32, 3), shade + number, np.uint8))


def test_two_experiences_with_motion_are_learned_and_kept(home: Workspace):
    folder = home.current_pack()
    assert folder is not None
    pack = read_pack(folder)
    assert set(pack.manifest.label_names) == set(LOOKS)
    kept = ReplayStore(home.replay_path).read(pack.digest)
    assert all(one.motion is not None and one.motion.shape[1] == 6 for one in (*kept.train, *kept.holdout))


def test_what_was_learned_is_answered_with_all_three_with_motion_alone_and_without_it(home: Workspace):
    with Runtime.open(home.bundle_path, home.current_pack(), "cpu", 1) as runtime:
        right = 0
        for label, (hz, shade, swings) in LOOKS.items():
            shown = np.full((32, 32, 3), shade, np.uint8)
            whole = runtime.predict(tone(0.5, hz=hz), shown, motion=swing(2.0, hz=swings, seed=99))
            alone = runtime.predict(None, None, motion=swing(2.0, hz=swings, seed=98))
            without = runtime.predict(tone(0.5, hz=hz), shown)
            for one in (whole, alone, without):
                assert sum(one.probabilities.values()) == pytest.approx(1.0, abs=1e-5)
            right += alone.label == label
        assert right == len(LOOKS)


def test_the_command_answers_tables_alone_and_beside_videos(
    home: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MMCL_EDGE_HOME", str(home.root))
    write_motion(tmp_path / "long.csv", swing(12.0, hz=LOOKS["run"][2], seed=7))
    write_video(tmp_path / "clip.mp4", duration_s=0.6)
    write_motion(tmp_path / "clip.csv", swing(0.6, hz=LOOKS["run"][2], seed=8))
    found = answer("predict", *sorted(tmp_path.iterdir()), "--window-s", "5")["predictions"]
    assert [(row["source"], row["start_s"]) for row in found] == [
        ("clip.mp4+csv", 0.0),
        ("long.csv", 0.0),
        ("long.csv", 5.0),
        ("long.csv", 10.0),
    ]
    assert {row["label"] for row in found[1:]} == {"run"}


def test_features_of_random_kernels_tell_movements_apart(tiny: TinyBundle):
    """The nearest mean of pooled features, learned from ten swings of each kind, names new ones."""
    from mmcl_edge.export.rocket import load_rocket
    from mmcl_edge.runtime.preprocess import prepare_motion

    source = load_rocket()

    def pooled(hz: float, seed: int) -> torch.Tensor:
        x = source.stem(prepare_motion(swing(5.0, hz=hz, seed=seed), source.input).values)  # type: ignore[arg-type]
        for _, layer in source.layers:
            x = layer(x)
        return source.output(x).mean(dim=1)[0]

    kinds = [0.5, 1.5, 3.0, 6.0]
    with torch.inference_mode():
        means = torch.stack([torch.stack([pooled(hz, seed) for seed in range(10)]).mean(0) for hz in kinds])
        found = [[int((means - pooled(hz, 50 + seed)).norm(dim=1).argmin()) for seed in range(5)] for hz in kinds]
    assert found == [[kind] * 5 for kind in range(4)]


def test_random_kernels_follow_from_their_seed_and_say_so(tiny: TinyBundle):
    from mmcl_edge.export.rocket import SCALES, load_rocket, rocket

    one, same, other = load_rocket(), load_rocket(), rocket(SCALES["g_dps"], seed=1)
    weights = [dict(one.layers[3][1].named_parameters()) for one in (one, same, other)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert not torch.equal(weights[0]["conv.weight"], weights[2]["conv.weight"])
    entry = tiny("trio").manifest.backbone("motion")
    assert (entry.origin.source, entry.origin.trained, entry.origin.random_by_design) == (
        "random kernels, seed 0",
        False,
        True,
    )
    assert Bundle.open(tiny("trio").path).digest == tiny("trio").digest
    assert not any("random_by_design" in str(one.origin.model_dump()) for one in tiny("trio").manifest.backbones[:2])
