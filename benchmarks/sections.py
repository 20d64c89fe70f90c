"""What docs/performance.md says about each program, and which figures its targets bind."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """A figure that should not exceed a target.

    Attributes:
        target: name of the bound in a row's ``targets``; rows without it are not checked.
        path: the figure, names joined by dots.
        meaning: for the reader.
        benchmark: rows it applies to, if a program prints several kinds.
    """

    target: str
    path: str
    meaning: str
    benchmark: str | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the page.

    Attributes:
        job: the program's job in ``run.py``.
        title: heading.
        text: what the contestants are.
        keys: fields that name a row.
        checks: its targets.
    """

    job: str
    title: str
    text: str
    keys: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()


_PREDICT = """\
`ours` is `Runtime.predict` from raw arrays (5 s of sound, one picture of 256 x 256) to an answer: checks, resizing,
backbones, adapters. `monolith_*` is raw ONNX Runtime: each backbone as one graph, without adapters, on input that was
prepared before; `default` with the options ONNX Runtime comes with, `spin` with one thread a core that spins while it
waits, `no_spin` with one that sleeps, `brief_spin` with one that spins as briefly as ours. `ort_format` is the same
graphs optimised beforehand and stored in ONNX Runtime's own format for mobile devices. `onnx_alone` is the bundle's
segments one after the other, without adapters. `torch_N` is the same model in torch eager with fused attention and N
threads, from raw arrays; `compiled_N` is that under `torch.compile`. Of several settings of a peer the fastest is the
one that ours is compared with. Rows named `busy` were measured while another process computed without a pause, bound
to no core."""
_PREDICT_KEYS = ("pair", "placement", "load")
_PREDICT_CHECKS = (
    Check("to_monolith", "ratio_to_monolith", "time / raw ONNX Runtime"),
    Check("to_torch", "ratio_to_torch", "time / torch eager"),
    Check("tail", "tail.ours.p99_to_p50", "p99 / p50 of single predictions"),
)
_AV21 = "av21: real sounds and photos; needs a folder with that data (`--data`)."
SECTIONS = (
    Section("predict", "One prediction, default pair", _PREDICT, _PREDICT_KEYS, _PREDICT_CHECKS),
    Section(
        "predict-vit-tiny",
        "One prediction, ViT-Tiny and a ViT-Tiny over log-mel",
        "Contestants as above; random weights.",
        _PREDICT_KEYS,
        _PREDICT_CHECKS,
    ),
    Section(
        "predict-vit-base",
        "One prediction, ViT-B/16 and a ViT-B over log-mel",
        "Contestants as above; random weights.",
        _PREDICT_KEYS,
        _PREDICT_CHECKS,
    ),
    Section(
        "fused",
        "A fused graph",
        "`fused` is what `mmcl-edge export --fuse` writes: bundle and pack in one graph. `live` is `Runtime.predict` "
        "with the same bundle and pack, where packs may change at any moment. The others are as above.",
        ("placement",),
    ),
    Section(
        "startup",
        "Start",
        "`first_answer` runs from after the imports to the first answer of a fresh process (open and verify the "
        "bundle, make the sessions, read the pack, predict once); `open` is its first part. `onnx_alone` makes the "
        "segments' sessions in plain ONNX Runtime and runs each once. `help` is `mmcl-edge --help` as a whole process, "
        "`python` one that does nothing.",
        (),
        (
            Check("help_ms", "help.median_ms", "`mmcl-edge --help`, ms", "startup_help"),
            Check("first_answer_ms", "first_answer.median_ms", "open to first answer, ms", "startup_runtime"),
        ),
    ),
    Section(
        "memory",
        "Memory",
        "`memory_growth` is the slope of resident memory over many predictions; the target is a slope of at most twice "
        "its standard error. `memory_sessions` is what opening every graph that training runs adds to a fresh process: "
        "`shared` as the runtime opens them, `private` with the weights inside each graph.",
        (),
        (
            Check(
                "slope_in_standard_errors",
                "slope_in_standard_errors",
                "growth, in standard errors of its slope",
                "memory_growth",
            ),
        ),
    ),
    Section(
        "adapt_step",
        "One training step, inline",
        "`recompute` and `save` are forward pass, losses, backward pass and optimizer step through ONNX segments, from "
        "bundles exported with either kind of gradient. `torch_N` is the same step in torch eager with fused attention "
        "and N threads. Memory is the peak above the idle process, each in a process of its own.",
        ("batch", "frozen"),
        tuple(
            Check(target, f"{field}.{mode}", f"{what} / torch eager, `{mode}`", "adapt_step")
            for target, field, what in (
                ("time", "ratio_to_torch", "time"),
                ("peak_memory", "memory_ratio_to_torch", "peak memory above idle"),
            )
            for mode in ("recompute", "save")
        ),
    ),
    Section(
        "ladder_cache",
        "Later epochs from kept features",
        "The first epoch works out what no adapter reaches and writes it to disk in one of three precisions; later "
        "epochs read it.",
        ("placement", "precision"),
        (Check("later_to_first", "later_to_first", "time of a later epoch / of the first"),),
    ),
    Section("adapt_av21", "Learning on recordings", _AV21, ("placement", "seed")),
    Section("confidence", "Confidence on recordings", _AV21, ("placement", "seed")),
    Section(
        "ranges",
        "int8",
        f"{_AV21} `float` and `int8` are `Runtime.predict` with a bundle before and after range calibration.",
        ("placement", "backbone"),
        (
            Check("accuracy_loss", "loss", "accuracy lost", "ranges_accuracy"),
            Check("latency_ratio", "predict_latency_ratio", "time / float", "ranges_accuracy"),
            Check("size_ratio", "size_ratio", "size / float", "ranges_graphs"),
        ),
    ),
)
