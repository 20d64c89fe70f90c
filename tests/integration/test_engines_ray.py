"""A real local Ray behind the executor seam, in a process of its own, since Ray warns of much."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("ray", reason="the extra 'cluster' is not installed")

PROGRAM = """
import json, os, subprocess, sys, time
from pathlib import Path
from mmcl_edge.errors import MmclEdgeError
from mmcl_edge.fleet.engines import as_finished, in_order, open_engine, workers_of
from mmcl_edge.packs import read_manifest

def cluster_address():
    import ray

    return ray.get_runtime_context().gcs_address

found = {}
with open_engine("ray", workers=2) as executor:
    found["kind"] = type(executor).__name__
    found["workers"] = workers_of(executor)
    found["in_order"] = list(in_order(executor, abs, range(-30, 0)))
    found["as_finished"] = sorted(as_finished(executor, abs, [-3, -2, -1]))
    found["map"] = list(executor.map(pow, [2, 3], [3, 2]))
    taken = []
    results = executor.map(abs, (taken.append(n) or n for n in range(1000)))
    next(results)
    found["taken"] = len(taken)
    results.close()
    found["pids"] = len({executor.submit(os.getpid).result() for _ in range(3)} - {os.getpid()}) > 0
    found["digests"] = sorted(digest for _, digest in in_order(executor, read_manifest, map(Path, sys.argv[1:])))
    for name, work in {"raised": (int, "x"), "ours": (read_manifest, "/nowhere"), "died": (os._exit, 1)}.items():
        try:
            executor.submit(*work).result()
        except (ValueError, MmclEdgeError) as error:
            found[name] = [type(error).__name__, str(error)]
    address = executor.submit(cluster_address).result()
    outsider = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    intruder = f"import ray; ray.init(address={address!r}, logging_level='ERROR')"
    found["intruder"] = subprocess.run([sys.executable, "-c", intruder], env=outsider, capture_output=True).returncode
    queued = [executor.submit(time.sleep, 30) for _ in range(6)]
    started = time.monotonic()
found["leaving_s"] = time.monotonic() - started
found["dropped"] = [future.cancelled() for future in queued]
try:
    executor.submit(abs, 1)
except RuntimeError as error:
    found["after"] = str(error)
for name, address in {"nowhere": "127.0.0.1:1", "named": None}.items():
    os.environ["RAY_ADDRESS"] = "127.0.0.1:2"
    try:
        with open_engine("ray", address=address):
            pass
    except MmclEdgeError as error:
        found[name] = [type(error).__name__, str(error)]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def packs(tmp_path_factory):
    from mmcl_edge.packs import write_pack
    from tests.builders import pack_contents

    folder = tmp_path_factory.mktemp("packs")
    return [folder / write_pack(folder, pack_contents(value=float(value))) for value in range(3)]


@pytest.fixture(scope="module")
def found(packs, tmp_path_factory):
    program = tmp_path_factory.mktemp("ray") / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), *map(str, packs)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr[-4000:]
    return json.loads(run.stdout.splitlines()[-1])


def test_results_come_in_the_order_of_the_jobs(found):
    assert found["in_order"] == list(range(30, 0, -1))
    assert found["as_finished"] == [[-3, 3], [-2, 2], [-1, 1]]
    assert found["map"] == [8, 9]


def test_the_cluster_works_in_other_processes_and_says_how_many_fit(found):
    assert (found["kind"], found["workers"], found["pids"]) == ("RayExecutor", 2, True)


def test_map_takes_jobs_as_there_is_room(found):
    assert 2 <= found["taken"] <= 16


def test_packs_are_read_on_the_cluster(found, packs):
    assert found["digests"] == sorted(path.name for path in packs)


def test_what_work_raises_arrives_as_it_was_raised(found):
    assert found["raised"][0] == "ValueError"
    assert found["ours"][0] == "PackError"
    assert "Expected a pack" in found["ours"][1]


def test_a_worker_ended_from_outside_is_told_in_a_sentence(found):
    name, sentence = found["died"]
    assert name == "WorkerError"
    assert sentence.startswith("Expected every worker of the cluster to finish its work, but one did not")


def test_leaving_drops_what_has_not_begun(found):
    assert all(found["dropped"])
    assert found["leaving_s"] < 20
    assert "after shutdown" in found["after"]


def test_a_local_ray_takes_work_from_nobody_else(found):
    assert found["intruder"] != 0


def test_a_cluster_that_is_not_there_is_told_in_a_sentence(found):
    name, sentence = found["nowhere"]
    assert name == "WorkerError"
    assert "127.0.0.1:1" in sentence
    assert "--engine process" in sentence
    assert "127.0.0.1:2" in found["named"][1]
