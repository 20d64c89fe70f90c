"""Engines: one seam, and the same behaviour whatever is behind it."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, TimeoutError

import pytest

from mmcl_edge.errors import InputError, MissingExtraError, PackError, WorkerError
from mmcl_edge.fleet import engines
from mmcl_edge.fleet.engines import as_finished, available_cores, in_chunks, in_order, open_engine, workers_of

LOCAL = ("process", "thread")


@pytest.fixture(params=LOCAL, scope="module")
def executor(request):
    with open_engine(request.param, workers=2) as found:
        yield found


def test_results_come_in_the_order_of_the_jobs(executor):
    assert list(in_order(executor, abs, range(-20, 0))) == list(range(20, 0, -1))


def test_results_come_with_their_jobs_as_they_finish(executor):
    assert dict(as_finished(executor, abs, [-3, -2, -1])) == {-3: 3, -2: 2, -1: 1}


def test_no_job_is_no_result(executor):
    assert list(in_order(executor, abs, [])) == list(as_finished(executor, abs, [])) == []


def test_what_work_raises_arrives_as_it_was_raised(executor):
    with pytest.raises(ValueError, match="invalid literal"):
        list(in_order(executor, int, ["1", "x"]))
    with pytest.raises(ValueError, match="invalid literal"):
        list(as_finished(executor, int, ["1", "x"]))


def test_errors_of_ours_survive_the_way_home(executor):
    future = executor.submit(_refuse, "the pack is broken")
    with pytest.raises(PackError, match="the pack is broken"):
        future.result()


def test_without_an_engine_work_is_done_here():
    assert list(in_order(None, abs, [-1, -2])) == [1, 2]
    assert list(as_finished(None, abs, [-1])) == [(-1, 1)]


@pytest.mark.parametrize("helper", [in_order, as_finished])
def test_no_more_than_a_window_is_on_its_way(helper):
    taken, returned = [], []

    def jobs():
        for number in range(50):
            taken.append(number)
            yield number

    with open_engine("thread", workers=2) as executor:
        for result in helper(executor, abs, jobs(), window=5):
            returned.append(result)
            assert len(taken) - len(returned) <= 5
    assert len(returned) == 50


def test_the_window_follows_from_the_workers():
    taken = []

    def jobs():
        for number in range(1000):
            taken.append(number)
            yield number

    with open_engine("thread", workers=3) as executor:
        results = in_order(executor, abs, jobs())
        next(results)
        assert len(taken) == engines.AHEAD * 3
        results.close()


def test_who_stops_early_drops_what_has_not_begun():
    done = []

    def work(number):
        time.sleep(0.05)
        done.append(number)

    with open_engine("thread", workers=1) as executor:
        results = as_finished(executor, work, range(20), window=20)
        next(results)
        results.close()
    assert len(done) < 10


def test_leaving_an_engine_by_an_error_drops_what_has_not_begun():
    queued = []

    def fail():
        with open_engine("thread", workers=1) as executor:
            queued.extend(executor.submit(time.sleep, 0.05) for _ in range(20))
            _refuse("stop")

    with pytest.raises(PackError):
        fail()
    assert sum(future.cancelled() for future in queued) > 10


def test_time_can_run_out():
    with open_engine("thread", workers=1) as executor, pytest.raises(TimeoutError):
        list(in_order(executor, time.sleep, [0.3], timeout_s=0.01))


def test_a_worker_ended_from_outside_is_told_in_a_sentence():
    with (
        pytest.raises(WorkerError, match="ended from outside") as caught,
        open_engine("process", workers=1) as executor,
    ):
        list(in_order(executor, _end_worker, [0]))
    assert "--workers" in str(caught.value)


def test_workers_of_a_process_pool_use_one_thread_each():
    with open_engine("process", workers=1) as executor:
        assert executor.submit(os.getenv, "OMP_NUM_THREADS").result() == "1"


def test_workers_end_when_their_parent_is_killed():
    program = (
        "import os, time\n"
        "from mmcl_edge.fleet import engines\n"
        "if __name__ == '__main__':\n"
        "    with engines.open_engine('process', workers=1) as executor:\n"
        "        print(executor.submit(os.getpid).result(), flush=True)\n"
        "        executor.submit(time.sleep, 60).result()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while _alive(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _alive(worker)


REFUSED = {
    "no such engine": ({"name": "spark"}, "Expected an engine among process, thread, ray"),
    "no worker": ({"name": "thread", "workers": 0}, "at least one worker"),
    "an address without a cluster": ({"name": "process", "address": "auto"}, "the engine 'ray' alone"),
}


@pytest.mark.parametrize(("arguments", "sentence"), REFUSED.values(), ids=REFUSED)
def test_options_that_mean_nothing_are_refused(arguments, sentence):
    with pytest.raises(InputError, match=sentence), open_engine(**arguments):
        pass


def test_ray_that_is_not_installed_is_an_extra_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"mmcl-edge\[cluster\]"), open_engine("ray", workers=1):
        pass


def test_workers_are_counted():
    with ThreadPoolExecutor(7) as executor:
        assert workers_of(executor) == 7
    assert available_cores() >= 1


def test_chunks_cover_everything_once():
    assert list(in_chunks(range(7), 3)) == [range(0, 3), range(3, 6), range(6, 7)]
    assert list(in_chunks([], 3)) == []


def test_the_seam_alone_imports_nothing_heavy():
    program = "import sys, mmcl_edge.fleet.engines; print([n for n in ('torch', 'numpy', 'ray') if n in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def _refuse(sentence):
    raise PackError(sentence)


def _end_worker(_):
    os.kill(os.getpid(), signal.SIGKILL)


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
