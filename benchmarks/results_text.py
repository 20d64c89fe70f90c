"""The words of docs/results.md: what each part is, and what each ablation asks. No figures: those come from records."""

from __future__ import annotations

HEAD = """\
# Results

Made by `make results`; do not edit. Every number comes from
[results/summary.csv](results/summary.csv) (a line a learner and stream) and
[results/matrices.csv.gz](results/matrices.csv.gz) (every accuracy measured); the records of the runs, which name their
whole configuration, and the HTML report with accuracy matrices, expert use, confusion and costs stay beside them in
`bench/results`. In per cent, with 95 % intervals over seeds (Student t). A seed draws the order of classes or domains,
the training pairs, and whatever the learner draws. Final and average accuracy weigh every test pair alike; forgetting
is the final row's. *Loss* is final accuracy on clean test pairs minus that under the condition.

Papers' methods are **reconstructions**: `mmcl` of the paper's abstract and public summaries, with one addition of ours
(every modality votes; `mmcl-joint-vote` is without); baselines from their papers and released code, on a common host.
The common host: the default pair of backbones, adapters in the ladder placement on cached frozen features, 12 epochs or
48 steps of AdamW, 16 MiB to keep beside the model (EWC's Fisher information and joint training exceed them; the column
says what each kept); prompts keep their papers' rate and 5 epochs. What was chosen was chosen on validation folds of
the training pairs (`mmcl-edge bench run validation`; baselines' own parameters by `benchmarks/tune_baselines.py`, on
9 classes, 1 or 2 folds and small grids whose edge several choices are on: `benchmarks/tune_baselines.json`), never on
test pairs; CoPE's momentum was set by hand. `ranpac-frozen` is the floor: ridge regression on randomly
projected frozen features, no adapters. How the winner works: [analytic learning](guides/analytic.md).
"""

WHAT = {
    "av21, 5 pairs a class": "What a device has: five examples a class. 21 classes in 7 experiences of 3.",
    "av21, 10 pairs a class": "Ten examples a class, otherwise alike.",
    "av21, all pairs": "All 617 training pairs (10 to 40 a class); prompts join in.",
    "digits, 6 speakers": "Ten spoken and written digits; each experience is another speaker with another fault of the "
    "picture. Test conditions are measured after every experience, on domains met and not yet met.",
    "digits, 2 pairs a digit and speaker": "The same with 20 training pairs an experience: with all pairs nearly every "
    "learner is right on nearly every pair, so differences cannot show.",
    "av21, one pass": "Online: one pass over the data of each experience.",
    "av21, task known": "Task-incremental: at test the experience is known, so only its three classes compete.",
    "ablations": "On av21 with all pairs, one part changed at a time; differences are paired by seed. With 5 pairs a "
    "class the analytic learner's ablations stand in the first table: few pairs are where separate heads and maxima "
    "matter.",
}

ABLATIONS = {
    "mmcl": "The whole method.",
    "mmcl-joint-vote": "Only the joint representation is classified, as in the paper: do modalities' own votes help?",
    "er-votes": "Plain replay, trained on the mean vote.",
    "mmcl-no-alignment": "Does alignment help?",
    "mmcl-direct-alignment": "Aligned to each other instead of to the joint representation.",
    "mmcl-no-preservation": "Does keeping relations between representations help?",
    "mmcl-no-distillation": "Does distillation help beside replay?",
    "mmcl-no-sqrt": "Does it matter that distillation grows with the step's square root?",
    "mmcl-no-balance": "Plain cross-entropy: is it the balanced softmax?",
    "mmcl-no-freezing": "No expert is frozen: does freezing protect?",
    "mmcl-specific": "Adapters of one modality, no attention across: do cross-modality adapters help?",
    "mmcl-dense": "All eight experts serve every sample: is choosing worth it?",
    "mmcl-tokens": "Token-to-token attention in place of eight latents.",
    "mmcl-memory-0": "No exemplars at all.",
    "mmcl-memory-half": "Half the bytes.",
    "mmcl-memory-double": "Twice the bytes.",
    "mmcl-analytic": "The whole analytic learner.",
    "analytic-fused": "One head on all features side by side: are separate heads worth it?",
    "analytic-both": "A fused head beside the two.",
    "analytic-means": "Means of each block alone: what do maxima add?",
    "analytic-last": "Means of the last features alone, as most classifiers on frozen features read.",
    "analytic-adapted": "Representations of adapters trained on the first experience, beside the moments.",
}

NOTES = """\
## How far to trust this

- The sets are small: one standard error of an accuracy near 90 % is about 1.9 points on av21's 243 test pairs and 4 on
  one domain of digits (60 pairs). In av21 sound and picture share only their class, and sources go with classes.
- Test pairs are fixed; seeds differ in order, draws and initial weights, so intervals say how a method varies, not how
  another test set would.
- Comparisons are not corrected for their number.
- The ladder placement was measured here; `inline` takes a hundred times as long to train
  (`benchmarks/bench_adapt_av21.py` measures it through the device's own path).
- Independent implementations: `benchmarks/check_avalanche.py` runs the same stream, buffer and features through
  Avalanche's own strategies; figures of both are in `benchmarks/check_avalanche.json`.
"""
