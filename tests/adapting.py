"""Small tasks and small methods for tests of the adapt engine, and children that can be killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile

from mmcl_edge.config import AdaptConfig, AdapterConfig, HeadConfig, MethodConfig, ReplayConfig, TrainConfig
from mmcl_edge.packs import read_pack
from mmcl_edge.runtime.adapt import AdaptEvents, AdaptRequest, adapt
from mmcl_edge.runtime.replay_store import ReplayStore
from mmcl_edge.runtime.run_record import AdaptReport
from mmcl_edge.runtime.workspace import Workspace
from mmcl_edge.types import SAMPLE_RATE_HZ
from tests.integration.test_data_makers import write_picture

Kind = Literal["pair", "sound", "picture"]
LOOKS = {"low": (250.0, 20), "high": (3000.0, 230), "middle": (1000.0, 120), "hum": (120.0, 70)}
"""Class name to the pitch of its tone and the shade of its picture."""


def method(**train: Any) -> MethodConfig:
    """A tiny method: ladder unless ``placement`` says otherwise, two epochs, twelve exemplars."""
    placement = train.pop("placement", "ladder")
    exemplars = train.pop("exemplars", 12)
    shape = {"experts": 3, "rank": 4, "latents": 2, "ladder_dim": 8, "ladder_tokens": 4, "map_grid": 4}
    return MethodConfig(
        adapter=AdapterConfig(placement=placement, **shape),
        head=HeadConfig(joint_dim=16, fusion_hidden=16, voters="all"),
        replay=ReplayConfig(exemplars=exemplars),
        train=TrainConfig(**{"epochs": 2, "min_steps": 0, "batch_size": 8, "learning_rate": 1e-2} | train),
    )


def request(name: str, **changes: Any) -> AdaptRequest:
    """A request on one thread; fields of ``AdaptConfig`` may be given by name. Any accuracy is accepted by default."""
    given = {key: changes.pop(key) for key in list(changes) if key in AdaptConfig.model_fields}
    how = AdaptConfig(**{"tolerance": 1.0} | given)
    return AdaptRequest(name, adapt=how, threads=1, **{"method": method(), "provider": "cpu"} | changes)


def write_task(workspace: Workspace, name: str, classes: Mapping[str, Kind], *, count: int = 3, seed: int = 0) -> Path:
    """``tasks/<name>`` with ``count`` samples a class: a tone in noise, a shade in noise, or both."""
    rng = np.random.default_rng(seed)
    folder = workspace.task_folder(name)
    for label, kind in classes.items():
        (folder / label).mkdir(parents=True)
        for number in range(count):
            write_sample(folder / label / f"{label}_{number}", label, kind, rng)
    return folder


def write_sample(stem: Path, label: str, kind: Kind, rng: np.random.Generator) -> None:
    hz, shade = LOOKS[label]
    if kind != "picture":
        time_s = np.arange(round(rng.uniform(0.3, 0.9) * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
        sound = 0.3 * np.sin(2 * np.pi * hz * time_s) + rng.normal(0, 0.01, len(time_s))
        soundfile.write(stem.with_suffix(".wav"), sound.astype(np.float32), SAMPLE_RATE_HZ)
    if kind != "sound":
        noise = rng.integers(-15, 16, (32, 32, 3))
        write_picture(stem.with_suffix(".png"), (shade + noise).astype(np.uint8))


def in_use(workspace: Workspace) -> str | None:
    """Digest of the pack in use, after reading all of it and its exemplars."""
    folder = workspace.current_pack()
    if folder is None:
        return None
    pack = read_pack(folder, expected_digest=folder.name, bundle_digest=workspace.bundle_digest())
    exemplars = ReplayStore(workspace.replay_path).read(pack.digest)
    assert {sample.label for sample in exemplars.holdout} == set(pack.manifest.label_names)
    return pack.digest


def adapt_in_child(root: Path, asked: AdaptRequest, begun: Any = None, die_after_epoch: int | None = None) -> None:
    """Adapt in this process, which is a child; may say when it begins, and may kill itself after an epoch."""
    if begun is not None:
        begun.set()

    def on_epoch(epoch: int, losses: Mapping[str, float]) -> None:
        if epoch == die_after_epoch:
            os.kill(os.getpid(), signal.SIGKILL)

    adapt(Workspace(root).open(), asked, AdaptEvents(on_epoch=on_epoch))


def outcome(report: AdaptReport) -> tuple[bool, str | None]:
    """Whether the result was accepted, and its pack."""
    return report.accepted, report.pack_digest
