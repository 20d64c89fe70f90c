"""Federated rounds on a tiny bundle: devices adapt, the server merges, nothing but packs travels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mmcl_edge.config import MethodConfig
from mmcl_edge.fleet.rounds.device import take_part
from mmcl_edge.fleet.rounds.merging import PackMerge
from mmcl_edge.fleet.rounds.messages import Order
from mmcl_edge.fleet.rounds.server import Rounds
from mmcl_edge.learners.analytic.addends import addends_of, folded
from mmcl_edge.packs import read_pack
from mmcl_edge.runtime.engine import Runtime
from mmcl_edge.runtime.replay_store import ReplayStore
from mmcl_edge.runtime.workspace import Workspace
from tests.adapting import method, request, write_task
from tests.builders import snapshot
from tests.bundles import tiny_bundle

ANALYTIC = method().model_copy(update={"learner": "analytic"})
TASKS = {"one": ("low", "high"), "two": ("high", "middle"), "three": ("hum", "low")}
FEDERATED_PYTHON = "MMCL_EDGE_FEDERATED_PYTHON"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "bundle")


def devices_in(folder: Path, bundle) -> dict[str, Workspace]:
    """Three devices, each with two of four classes in tasks/rounds."""
    found = {}
    for number, (name, classes) in enumerate(TASKS.items()):
        workspace = Workspace(folder / name).create()
        workspace.install_bundle(bundle.path)
        write_task(workspace, "rounds", dict.fromkeys(classes, "pair"), count=6, seed=number)
        found[name] = workspace
    return found


def rounds_in(folder: Path, bundle, config: MethodConfig) -> Rounds:
    return Rounds(folder, bundle=bundle.family, method=config, adapt=request("rounds").adapt, merge=PackMerge("mean"))


def answer_of(workspace: Workspace, order: Order):
    answer = take_part(workspace, order, task="rounds", provider="cpu", threads=1)
    assert answer.refused == ""
    return answer


@pytest.fixture(scope="module")
def story(tmp_path_factory, bundle):
    """Two devices answer in time, the third a round late."""
    folder = tmp_path_factory.mktemp("rounds")
    devices, rounds = devices_in(folder, bundle), rounds_in(folder / "server", bundle, ANALYTIC)
    first, reports, packs = rounds.order(), [], {}
    for name in ("one", "two"):
        answer = answer_of(devices[name], first)
        packs[name] = devices[name].packs_path / answer.pack
        assert rounds.receive(answer, sender=name) is None
    reports.append(rounds.close())
    second = rounds.order()
    late = answer_of(devices["three"], first)
    packs["three"] = devices["three"].packs_path / late.pack
    assert rounds.receive(late, sender="three") is None
    reports.append(rounds.close())
    return devices, rounds, reports, packs, second


def test_late_devices_count_in_full_where_sums_are_added(story):
    _, rounds, reports, _, _ = story
    assert [len(report.merged) for report in reports] == [2, 1]
    assert [age for _, age in reports[1].merged.values()] == [1]
    assert set(read_pack(rounds.pack).manifest.label_names) == {"low", "high", "middle", "hum"}


def test_the_fleets_sums_are_those_of_every_devices_samples(story):
    _, rounds, _, packs, _ = story
    mine = folded(addends_of(read_pack(rounds.pack)))
    everything = folded([addend for pack in packs.values() for addend in addends_of(read_pack(pack))])
    assert mine.atoms == everything.atoms
    for head, sums in everything.sums.items():
        other = mine.placed(everything.classes)[head]
        torch.testing.assert_close(other.gram, sums.gram, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(other.cross, sums.cross, rtol=1e-5, atol=1e-5)


def test_no_sample_leaves_a_device(story):
    devices, rounds, _, packs, _ = story
    sent = b"".join(path.read_bytes() for folder in packs.values() for path in folder.iterdir())
    sent += b"".join(path.read_bytes() for path in rounds.folder.rglob("*") if path.is_file())
    samples = 0
    for device in devices.values():
        for path in (device.root / "tasks").rglob("*"):
            if path.is_file():
                samples += 1
                assert path.read_bytes()[100:164] not in sent
    assert samples > 50


def test_a_device_goes_on_from_the_fleets_pack_and_knows_every_class(story, bundle):
    devices, rounds, _, _, second = story
    device = devices["one"]
    before = device.current_pack()
    held = ReplayStore(device.replay_path).read(before.name).holdout
    write_task(device, "later", {"hum": "pair"}, count=6, seed=9)
    answer = take_part(device, second, task="later", provider="cpu", threads=1)
    assert (answer.refused, answer.base) == ("", second.pack)
    kept = ReplayStore(device.replay_path).read(answer.pack).holdout
    assert {(one.label, one.source) for one in held} <= {(one.label, one.source) for one in kept}
    assert rounds.receive(answer, sender="one") is None
    report = rounds.close()
    assert [age for _, age in report.merged.values()] == [1]
    with Runtime.open(bundle.path, rounds.pack, provider="cpu", threads=1) as runtime:
        assert set(runtime.labels) == {"low", "high", "middle", "hum"}
        assert runtime.predict(None, np.full((32, 32, 3), 230, np.uint8)).label == "high"


def test_a_device_that_has_nothing_new_says_so(story):
    devices, rounds, _, _, _ = story
    answer = take_part(devices["two"], rounds.order(), task="rounds", provider="cpu", threads=1)
    assert "nothing new" in answer.refused
    assert answer.archive == b""


def test_what_refuses_on_the_device_is_told_and_changes_nothing(story, tmp_path, bundle):
    _, rounds, _, _, _ = story
    device = devices_in(tmp_path, bundle)["one"]
    before = snapshot(device.root)
    broken = rounds.order().model_copy(update={"archive": b"no archive"})
    assert take_part(device, broken, task="rounds", provider="cpu", threads=1).refused
    assert take_part(device, Order(round=1, method="{}", adapt="[]"), task="rounds").refused
    assert snapshot(device.root) == before


def test_adapters_are_averaged_too(tmp_path, bundle):
    devices, rounds = devices_in(tmp_path, bundle), rounds_in(tmp_path / "server", bundle, method())
    for _ in range(2):
        order = rounds.order()
        for name in ("one", "two"):
            assert rounds.receive(answer_of(devices[name], order), sender=name) is None
        report = rounds.close()
        assert report.rejected is None
        assert [share for share, _ in report.merged.values()] == [0.5, 0.5]
    manifest = read_pack(rounds.pack).manifest
    assert set(manifest.label_names) == {"low", "high", "middle"}
    with Runtime.open(bundle.path, rounds.pack, provider="cpu", threads=1) as runtime:
        assert runtime.predict(None, np.full((32, 32, 3), 230, np.uint8)).label in manifest.label_names


FLOWER = """
import json, os, sys
from pathlib import Path
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.simulation import run_simulation
from mmcl_edge.config import AdaptConfig, MethodConfig
from mmcl_edge.fleet.rounds.flower_device import carry_out
from mmcl_edge.fleet.rounds.flower_strategy import MergeStrategy, Pace
from mmcl_edge.fleet.rounds.merging import PackMerge
from mmcl_edge.fleet.rounds.server import Rounds

folder, bundle, method, how = Path(sys.argv[1]), *sys.argv[2:]
method, how = MethodConfig.model_validate_json(method), AdaptConfig.model_validate_json(how)
rounds = Rounds(folder / "server", bundle=bundle, method=method, adapt=how, merge=PackMerge())
strategy = MergeStrategy(rounds, Pace(quorum=0.6, least_nodes=4, poll_s=0.05))
server, client = ServerApp(), ClientApp()
settings = {"workspaces": str(folder), "provider": "cpu", "threads": 1}

def train(message, context):
    return carry_out(message, {**settings, **context.node_config})

def run(grid, context):
    strategy.start(grid, num_rounds=2)

client.train()(train)
server.main()(run)
config = {"init_args": {"num_cpus": 2, "object_store_memory": 128 << 20}, "client_resources": {"num_cpus": 1}}
run_simulation(server, client, num_supernodes=4, backend_config=config)
print(json.dumps({
    "pack": rounds.pack.name,
    "merged": [len(report.merged) for report in strategy.reports],
    "refused": [sorted(report.refused.values()) for report in strategy.reports],
    "rejected": [report.rejected for report in strategy.reports],
}))
"""


@pytest.fixture(scope="module")
def flower(tmp_path_factory, bundle):
    """A Flower simulation of four nodes; the fourth has no workspace."""
    python = os.environ.get(FEDERATED_PYTHON)
    if not python:
        pytest.skip(
            f"Flower needs an environment of its own (extra 'federated'); name its python in {FEDERATED_PYTHON}"
        )
    folder = tmp_path_factory.mktemp("flower")
    devices_in(folder / "made", bundle)
    for number, name in enumerate(TASKS):
        (folder / str(number)).symlink_to(folder / "made" / name)
    program = folder / "program.py"
    program.write_text(FLOWER)
    how = request("rounds").adapt.model_dump_json()
    command = [python, str(program), str(folder), bundle.family, ANALYTIC.model_dump_json(), how]
    run = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False, cwd=folder)
    assert run.returncode == 0, run.stderr[-4000:]
    return folder, json.loads(run.stdout.splitlines()[-1])


def test_flower_carries_the_rounds_and_drops_nobody(flower):
    folder, found = flower
    assert sum(found["merged"]) == 3
    assert found["rejected"] == [None] * len(found["rejected"])
    pack = read_pack(folder / "server" / "packs" / found["pack"])
    assert set(pack.manifest.label_names) == {"low", "high", "middle", "hum"}
    assert len(folded(addends_of(pack)).atoms) == 3


def test_a_flower_node_that_cannot_take_part_says_why(flower):
    _, found = flower
    reasons = " ".join(reason for refused in found["refused"] for reason in refused)
    assert "Expected a workspace" in reasons
    assert "Traceback" not in reasons


def test_without_flower_the_rounds_still_import():
    program = (
        "import sys; sys.modules['flwr'] = None\n"
        "import mmcl_edge.fleet.rounds.server, mmcl_edge.fleet.rounds.messages, mmcl_edge.fleet.rounds.merging\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
