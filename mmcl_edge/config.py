"""Configurations of the method. Frozen, unknown fields refused, every inferred choice of the papers a field.

Tags in the descriptions: [S] confirmed in a paper or released code, [B] from a public summary of the paper,
[I] inferred: the most defensible choice, ours. Config objects stop at the builders (``build_*``): no
``nn.Module`` ever receives one.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from mmcl_edge.types import FrozenModel

FeaturePrecision = Literal["fp32", "fp16", "int8"]
Voters = Literal["joint", "all"]
LearnerName = Literal["mmcl", "analytic"]
LearnedBy = Literal["none", "mmcl", "analytic"]


class AdapterConfig(FrozenModel):
    """The mixture-of-experts cross-modality adapter of every block (paper 1, MMEncoder)."""

    placement: Literal["inline", "ladder"] = Field(
        "inline",
        description="inline: deltas enter the backbone (the paper's). ladder: a side network on its features.",
    )
    experts: int = Field(8, ge=1, description="E, experts per block at the start [I].")
    active_experts: int = Field(2, ge=1, description="K, experts that serve one sample [B: top experts; I: 2].")
    rank: int = Field(16, ge=1, description="R, bottleneck width of one expert [S in the base: 64; I: 16 for devices].")
    attention: Literal["latents", "tokens", "none"] = Field(
        "latents",
        description="How an expert reads the other modality: learned latents (LAVisH), token to token, not at all [I].",
    )
    latents: int = Field(8, ge=1, description="Learned latent tokens per expert, for attention='latents' [I].")
    scale: float = Field(0.1, gt=0, description="s, factor of the delta [S in MoE-Adapters4CL: 0.1].")
    input_norm: bool = Field(True, description="Parameter-free layer norm before the down projection [I].")
    map_grid: int = Field(
        7, ge=1, description="Convolutional maps are pooled to at most this many rows and columns of tokens [I]."
    )
    router_noise: float = Field(
        1.0,
        ge=0,
        description="Standard deviation of the Gaussian noise on router logits in training; 0 turns it off [I].",
    )
    freeze_experts: bool = Field(
        True, description="Freeze the K most used trainable experts of each block after an experience [A/I]."
    )
    features: Literal["all", "last"] = Field(
        "all",
        description="What represents a modality: its output features alone [paper], or beside them the mean input of "
        "every block [I: beyond the paper; frozen block means alone add about 5 points on av21].",
    )
    ladder_dim: int = Field(96, ge=1, description="Width of the ladder's side stream [I].")
    ladder_tokens: int = Field(16, ge=1, description="Tokens per block and modality that the ladder keeps [I].")

    @model_validator(mode="after")
    def _enough_experts(self) -> AdapterConfig:
        if self.active_experts > self.experts:
            raise ValueError(f"active_experts ({self.active_experts}) cannot exceed experts ({self.experts})")
        return self


class HeadConfig(FrozenModel):
    """Projection, fusion and classification head."""

    joint_dim: int = Field(
        256, ge=2, description="Width of the joint representation [I: 512 at the workstation, 256 on devices]."
    )
    fusion_hidden: int = Field(
        512, ge=2, description="Hidden units of the fusion MLP [P in the predecessor: 2048; I: 512 on devices]."
    )
    classifier: Literal["cosine", "linear"] = Field(
        "cosine", description="Growing head; cosine is the safer one with new classes [I]."
    )
    cosine_scale: float = Field(16.0, gt=0, description="Initial logit scale of the cosine head (trained) [I].")
    voters: Voters = Field(
        "joint",
        description="Which representations the head reads: the joint one [paper], or each modality's too, the mean "
        "vote deciding [I: beyond the paper; chosen on validation folds, docs/results.md has the ablation]. "
        "Packs made before there was a choice are 'joint', so that is what a missing field means.",
    )
    modality_dropout: float = Field(
        0.15,
        ge=0,
        lt=1,
        description="Chance that one of several present modalities is hidden from a training sample [I].",
    )


class LossConfig(FrozenModel):
    """Weights and temperatures of the four losses (METHODS 1.5). A weight of 0 removes its loss."""

    balance: bool = Field(
        True,
        description="Balanced softmax: the cross-entropy allows for how often each class occurs in the batches, so "
        "that new classes do not crowd out replayed ones (Ren et al. 2020) [I].",
    )
    distill_weight: float = Field(1.0, ge=0, description="lambda_d [I].")
    distill_temperature: float = Field(2.0, gt=0, description="T [S in the bases: 2].")
    distill_scale: Literal["sqrt_step", "none"] = Field(
        "sqrt_step", description="Multiply distillation by sqrt(t) [B]."
    )
    align_weight: float = Field(0.5, ge=0, description="lambda_a [I].")
    align_target: Literal["joint", "direct"] = Field(
        "joint", description="Align to the joint representation [B], or pairwise (control arm)."
    )
    align_temperature: float = Field(0.07, gt=0, description="tau [I].")
    preserve_weight: float = Field(1.0, ge=0, description="lambda_p [I].")
    preserve_temperature: float = Field(0.1, gt=0, description="kappa of the current model [I].")
    preserve_teacher_temperature: float = Field(0.1, gt=0, description="kappa* of the teacher [I].")


class ReplayConfig(FrozenModel):
    """The exemplar buffer."""

    exemplars: int = Field(
        200, ge=0, description="Exemplars kept in all, shared evenly by the classes [P: random, balanced]."
    )
    budget_bytes: int = Field(
        64 << 20,
        ge=0,
        description="Upper bound of one pack's exemplars in bytes; its held-out samples have as much again.",
    )


class TrainConfig(FrozenModel):
    """The optimisation loop of one experience."""

    epochs: int = Field(12, ge=1, description="Passes over the experience's samples.")
    min_steps: int = Field(
        48,
        ge=0,
        description="Least optimizer steps of an experience: few samples get more epochs, for a handful of steps "
        "teaches nothing [I].",
    )
    batch_size: int = Field(
        16, ge=1, description="Current samples per step; as many exemplars are added [S: same size]."
    )
    learning_rate: float = Field(5e-4, gt=0, description="AdamW's peak rate, cosine to 0 [I].")
    weight_decay: float = Field(1e-4, ge=0, description="AdamW's decay [I].")
    gradient_clip: float = Field(1.0, gt=0, description="Largest norm of the whole gradient [I].")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="Of the cross-entropy [I].")


class AdaptConfig(FrozenModel):
    """How the adapt engine treats a task's data and judges the result. Not part of the model."""

    seed: int = Field(0, ge=0, description="Of everything random.")
    max_frames: int = Field(4, ge=1, description="Frames taken from a video, evenly spaced.")
    clip_s: float = Field(5.0, gt=0, description="Longer sounds are cut to their loudest window of this length.")
    min_samples: int = Field(2, ge=2, description="Samples each class must have: one to learn from, one to check with.")
    holdout_fraction: float = Field(0.2, gt=0, lt=1, description="Share of each class kept aside to measure accuracy.")
    holdout_per_class: int = Field(8, ge=1, description="Held-out samples kept of each class for later experiences.")
    holdout_pairs: int = Field(64, ge=3, description="Held-out pairs kept of each modality for later stages.")
    tolerance: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Accuracy on old classes (of pairs: mean reciprocal rank on each old modality) that a new pack may "
        "lose before it is refused.",
    )
    false_alarm_rate: float = Field(
        0.1, gt=0, lt=1, description="Share of samples of known classes that may be called unknown."
    )
    max_minutes: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Stop after the epoch that exceeds this time."
    )
    feature_precision: FeaturePrecision = Field(
        "fp16",
        description="Of what training keeps of each sample instead of running the frozen part again; int8 has one "
        "scale a vector. benchmarks/bench_ladder_cache.py measures what it costs [I].",
    )
    feature_budget_bytes: int = Field(
        1 << 30,
        ge=0,
        description="Upper bound of those features on disk. What does not fit is worked out anew in every epoch.",
    )


PseudoReplay = Literal["none", "light", "generative"]


MAX_SIZE, MAX_COUNT = 1 << 13, 1 << 20
"""Bounds of what sizes a shared space: it comes in packs, so a configuration may not ask for all memory or all time."""


class CometConfig(FrozenModel):
    """The shared discrete space that modalities join pair by pair (paper 2, METHODS 2.5: a reconstruction)."""

    model_config = ConfigDict(allow_inf_nan=False)

    slots: int = Field(
        6,
        ge=1,
        le=MAX_SIZE,
        description="T, codes that tell one sample [S in the base: 10 seconds of a video; I: learned views of pooled "
        "features, for a picture and its caption share no time].",
    )
    dim: int = Field(
        64, ge=2, le=MAX_SIZE, description="D, width of a slot and of a code [S in the base: 256; I: 6 x 64]."
    )
    front_dim: int = Field(
        256,
        ge=1,
        le=MAX_SIZE,
        description="Most principal components of a modality's frozen features that are read [I].",
    )
    mediator_features: Literal["output", "all"] = Field(
        "output",
        description="What is read of the mediator: the mean of its backbone's output, what a text model is trained to "
        "say, or the moments of every block [I].",
    )
    ridge: float = Field(
        1.0, gt=0, description="Of the closed-form start of a projection, on features of total variance 1 [I]."
    )
    start: Literal["ridge", "random"] = Field(
        "ridge", description="Where projections start: at the regression onto the mediator, or at random [I]."
    )
    space: Literal["codes", "continuous"] = Field(
        "codes", description="Train the discrete space [S], or a continuous one by InfoNCE alone (control)."
    )
    embedding: Literal["continuous", "codes"] = Field(
        "continuous", description="What embed gives: vectors before quantization, or the codes' mean vector [I]."
    )

    codes: int = Field(
        128, ge=2, le=MAX_SIZE, description="L_0, codes of the first stage [S in the base: 400; I: 128 a slot]."
    )
    decay: float = Field(0.99, ge=0, lt=1, description="gamma of the multi-modal EMA [S].")
    settled_decay: float = Field(
        0.999, ge=0, le=1, description="gamma of rows from earlier stages; 1 freezes them [I]."
    )
    code_temperature: float = Field(0.1, gt=0, description="Of the distribution over codes [S in the base: 1; I].")
    dead_after: int = Field(
        300, ge=1, le=MAX_COUNT, description="Updates without use after which a new code is reset [S: 300]."
    )
    expand: bool = Field(True, description="Let the codebook grow [S: the paper's; rule I].")
    expand_margin: float = Field(
        0.2, ge=0, description="delta: grow where the new modality's residual exceeds (1 + delta) the mediator's [I]."
    )
    expand_codes: int = Field(50, ge=1, le=MAX_SIZE, description="Delta L, rows added at a time [I: 50 or 100].")
    expand_cap: float = Field(2.0, ge=1, le=64, description="Most codes, as a multiple of L_0 [I].")
    merge_cosine: float = Field(0.98, gt=0, le=1, description="Codes more alike than that become one [I].")

    experts: int = Field(
        2, ge=0, le=64, description="Fresh experts a stage [I: 2 to 4]; 0 leaves the CMoE-Adapter out."
    )
    active_experts: int = Field(2, ge=1, le=64, description="K, experts that serve one sample [S in the base].")
    rank: int = Field(64, ge=1, le=MAX_SIZE, description="Width of an expert [S in the base: 64].")
    router_noise: float = Field(1.0, ge=0, description="Standard deviation of noise on gate logits in training [I].")
    freeze_experts: bool = Field(
        True, description="Freeze a stage's experts after it, and bring fresh ones [S]; without, the first serve all."
    )
    train_mediator: Literal["never", "first", "always"] = Field(
        "first", description="In which stages the mediator's projection learns [I]."
    )

    pseudo_replay: PseudoReplay = Field(
        "light",
        description="How earlier modalities are replayed without their data: by Gaussians a code, or by decoders [I].",
    )
    replay_weight: float = Field(1.0, ge=0, description="lambda_PMR [I].")
    reconstruction_weight: float = Field(1.0, ge=0, description="[S: 1]")
    commitment_weight: float = Field(0.25, ge=0, description="beta; the cross term has half of it [S].")
    cpc_weight: float = Field(1.0, ge=0, description="Of cross-CPC [S: 1].")
    cpc_temperature: float = Field(0.1, gt=0, description="Of its scores [S in the base: 1; I for unit slots].")
    matching_weight: float = Field(0.5, ge=0, description="Of cross-modal code matching [S: 0.5].")
    club_weight: float = Field(1.0, ge=0, description="Of the mutual information bound [S: 1].")
    club_steps: int = Field(
        1, ge=1, le=1000, description="Likelihood steps of CLUB a batch [S: 5; I: 1, half the time]."
    )
    contrast_weight: float = Field(0.0, ge=0, description="Of InfoNCE between continuous vectors [I].")
    contrast_temperature: float = Field(0.07, gt=0, description="Of InfoNCE [I].")
    specific_dim: int = Field(64, ge=1, le=MAX_SIZE, description="Width of what only one modality says [I].")
    hidden: int = Field(256, ge=1, le=MAX_SIZE, description="Hidden units of decoders and of CLUB's nets [I].")

    epochs: int = Field(
        10, ge=0, le=MAX_COUNT, description="Passes over a stage's pairs; 0 keeps the closed-form start [S: 6]."
    )
    batch_size: int = Field(64, ge=2, le=MAX_COUNT, description="Pairs a step [S: 80].")
    learning_rate: float = Field(1e-3, gt=0, description="Adam's rate, cosine to 0 [S: 4e-4].")
    projection_rate: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Of projections that start at the regression, as a share of learning_rate; 0 keeps them [I].",
    )
    weight_decay: float = Field(0.0, ge=0, description="Of Adam [S: none].")
    gradient_clip: float = Field(0.5, gt=0, description="Largest norm of the gradient [S: 0.5].")


class MethodConfig(FrozenModel):
    """Everything that shapes a learner. Stored in each pack's ``adapter_config.json``."""

    learner: LearnedBy = Field(
        "mmcl",
        description="What learned the classes. mmcl: adapters, router and head, trained by gradient (paper 1). "
        "analytic: closed-form heads on frozen features, learned in one look, whose sums add up over devices [I]. "
        "none: no classes were learned, the pack holds a shared space alone. Packs made before there was a choice are "
        "'mmcl'.",
    )
    adapter: AdapterConfig = AdapterConfig()
    head: HeadConfig = HeadConfig(voters="all")
    loss: LossConfig = LossConfig()
    replay: ReplayConfig = ReplayConfig()
    train: TrainConfig = TrainConfig()
    space: CometConfig | None = Field(
        None, description="Of the shared space that the pack holds beside its classes; left out of the JSON without."
    )

    @model_serializer(mode="wrap")
    def _without_absent(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = serialise(self)
        if self.space is None:
            fields.pop("space", None)
        return fields
