"""The pure parts of the benchmark programs: figures, and the page made of rows. Never a time."""

import math

import machine
import page
import pytest
import run
from figures import percentile, slope, tail
from sections import SECTIONS
from torch_peers import last_line, without_paths

BY_JOB = {section.job: section for section in SECTIONS}
FACTS = {
    "benchmark": "facts",
    "job": "predict",
    "date": "2026-01-02 03:04 UTC",
    "processor": "Example 9000",
    "cores": 2,
    "vnni": True,
    "versions": {"torch": "2.11.0", "onnx": None},
}
PREDICT = {
    "benchmark": "predict",
    "job": "predict",
    "pair": "default",
    "placement": "inline",
    "load": "idle",
    "ours": {"median_ms": 10.0, "min_ms": 9.0, "max_ms": 12.0, "ours_to_it": 1.0},
    "monolith_spin": {"median_ms": 9.5, "min_ms": 9.0, "max_ms": 9.9, "ours_to_it": 1.05},
    "ratio_to_monolith": 1.05,
    "ratio_to_torch": 0.8,
    "tail": {},
    "preprocess_share": 0.02,
    "targets": {"to_monolith": 1.08, "to_torch": 0.667, "tail": 1.5},
}


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([3.0], 99, 3.0), ([4.0, 2.0], 50, 3.0), (list(range(101)), 99, 99), ([1.0, 2.0, 10.0], 100, 10.0)],
)
def test_percentile_is_interpolated(values: list[float], percent: float, expected: float) -> None:
    assert percentile(values, percent) == expected


def test_no_values_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        percentile([], 50)


def test_tail_is_p99_over_p50() -> None:
    assert tail([10.0] * 98 + [30.0, 30.0]) == {"p50_ms": 10.0, "p99_ms": 30.0, "p99_to_p50": 3.0}


def test_slope_of_a_line_has_no_error() -> None:
    found = slope([0, 1, 2, 3], [5, 7, 9, 11])
    assert (found.value, found.standard_error) == (2.0, 0.0)
    assert found.in_standard_errors == math.inf


@pytest.mark.parametrize("values", [[4, 4, 4, 4], [4, 3, 2, 1]])
def test_what_does_not_grow_is_no_standard_error_off(values: list[float]) -> None:
    assert slope([0, 1, 2, 3], values).in_standard_errors == 0


def test_slope_and_its_error_by_hand() -> None:
    found = slope([0, 1, 2], [0, 0, 3])  # line -0.5 + 1.5 x, rest 0.25 + 1 + 0.25
    assert found.value == 1.5
    assert found.standard_error == pytest.approx(math.sqrt(1.5 / 1 / 2))


def test_two_points_have_no_slope() -> None:
    with pytest.raises(ValueError, match="three points"):
        slope([0, 1], [0, 1])


def test_page_without_rows_says_not_measured_in_every_part() -> None:
    text = page.page([])
    parts = text.split("\n## ")[1:]
    assert len(parts) == len(SECTIONS) + 2  # machine, what is not compared
    assert all(page.NOT_MEASURED in part for part in parts)


def test_page_shows_times_ratios_targets_and_machine() -> None:
    text = page.page([FACTS, PREDICT])
    assert "| default, inline, idle | `monolith_spin` | 9.5 | 9 | 9.9 | 1.05 |" in text
    assert "| default, inline, idle | time / raw ONNX Runtime | <= 1.08 | 1.05 | met |" in text
    assert "| default, inline, idle | time / torch eager | <= 0.667 | 0.8 | missed |" in text
    assert "| default, inline, idle | p99 / p50 of single predictions | <= 1.5 |  | not measured |" in text
    assert "| preprocess share | 0.02 |" in text
    assert "| predict | 2026-01-02 03:04 UTC |  | Example 9000 | 2 | yes |" in text
    assert "| predict | 2.11.0 |  |" in text


def test_rows_without_a_target_are_not_judged() -> None:
    check = BY_JOB["predict"].checks[0]
    assert page.verdict({**PREDICT, "targets": {}}, check) is None


def test_targets_of_one_kind_of_row_bind_no_other() -> None:
    targets = {"help_ms": 300, "first_answer_ms": 1500}
    row = {"benchmark": "startup_help", "job": "startup", "help": {"median_ms": 58.0}, "targets": targets}
    text = page.section_text(BY_JOB["startup"], [row])
    assert "<= 300 | 58 | met" in text
    assert "1500" not in text


def test_a_program_that_failed_is_not_measured_and_says_why() -> None:
    text = page.section_text(BY_JOB["memory"], [{"benchmark": "failed", "job": "memory", "reason": "it took too long"}])
    assert "not measured: it took too long" in text


def test_fresh_rows_replace_only_those_of_their_program() -> None:
    old = [{"job": "startup", "benchmark": "a"}, {"job": "memory", "benchmark": "b"}]
    found = run.merged(old, "memory", [{"job": "memory", "benchmark": "c"}])
    assert [row["benchmark"] for row in found] == ["a", "c"]


def test_every_program_has_a_part_of_the_page_and_a_file() -> None:
    assert {job.name for job in run.JOBS} == set(BY_JOB)
    assert all((run.HERE / job.program).is_file() for job in run.JOBS)


def test_programs_are_chosen_by_name() -> None:
    assert [job.name for job in run.chosen("memory,fused", everything=False)] == ["fused", "memory"]
    assert not any(job.longer for job in run.chosen("", everything=False))
    assert len(run.chosen("", everything=True)) == len(run.JOBS)
    with pytest.raises(SystemExit, match="No such program: speed"):
        run.chosen("speed", everything=False)


@pytest.mark.parametrize("line", ["", "words", "[1]", '{"other": 1}'])
def test_other_lines_are_no_rows(line: str) -> None:
    assert run.parsed(line) is None


def test_reasons_name_no_folders() -> None:
    text = "a\nCompileError: /home/someone/.cache/x/main.cpp needs and/or /usr/include/Python.h\n\n"
    assert without_paths(last_line(text)) == "CompileError: main.cpp needs and/or Python.h"


def test_machine_facts_are_read_from_the_kernels_lists() -> None:
    cpuinfo = "model name\t: Example 9000\nflags\t\t: fpu avx512_vnni sse\n"
    assert machine.processor(cpuinfo) == "Example 9000"
    assert machine.has_vnni(cpuinfo)
    assert not machine.has_vnni("flags\t: fpu sse\n")
    assert machine.memory_gib("MemTotal:       16777216 kB\n") == 16.0
