"""The bundle: what an export leaves and a device opens.

A bundle is a folder::

    bundle.json                         this manifest (its sha256 is the *bundle digest*)
    <modality>/weights.bin              the large arrays of the graphs below, each of them once
    <modality>/stem.onnx                x -> y   raw input to first features
    <modality>/segment_00.onnx          x -> y   one per block
    <modality>/segment_00.vjp.onnx      x, g -> gx        (vjp_mode 'recompute')
    <modality>/segment_00.save.onnx     x -> y, s0..sn    (vjp_mode 'save': the forward used in training)
    <modality>/segment_00.vjp.onnx      s0..sn, g -> gx   (vjp_mode 'save')
    <modality>/output.onnx, output.vjp.onnx   the output norm or final convolution, same rules as a segment
    <modality>/vocab.txt                a text backbone's vocabulary: a piece a line, its place being its id
    predict.<placement>.<modalities>.onnx     a whole model of one sample; the pack's weights are inputs

Rules, performed in this order by ``Bundle.open``, each refusing before the next is tried:
1. ``bundle.json`` is a file of at most 4 MiB that parses.
2. Its ``schema_version`` is one this release knows.
3. It fits the schema below: unknown fields are refused, paths stay inside the folder.
4. Every file it names exists, has the stated size and the stated sha256.
5. The digest, if the caller expects one, is the expected one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from mmcl_edge.config import AdapterConfig, HeadConfig
from mmcl_edge.errors import BundleError, IntegrityError
from mmcl_edge.fileio import canonical_json, read_json, sha256_bytes, sha256_file
from mmcl_edge.types import FeatureSpec, FrozenModel, PoolSpec

MANIFEST_NAME = "bundle.json"
SCHEMA_VERSION = 1


def inside(path: str) -> str:
    """``path`` if it is relative and stays inside its folder; ``ValueError`` otherwise."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or "\\" in path or any(part in ("..", ".") for part in parts):
        raise ValueError(f"the path {path!r} does not stay inside the folder")
    return path


class FileEntry(FrozenModel):
    """A file by relative path, with what its bytes must be."""

    path: Annotated[str, AfterValidator(inside)]
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(ge=0)

    @classmethod
    def of(cls, folder: Path, path: str) -> FileEntry:
        """Entry for an existing file of ``folder``."""
        full = folder / path
        return cls(path=path, sha256=sha256_file(full), size_bytes=full.stat().st_size)

    def verify(self, folder: Path) -> Path:
        """The file's full path, after checking kind, size and digest.

        Raises:
            IntegrityError: missing, a link, of another size, or changed.
        """
        full = folder / self.path
        if full.is_symlink() or not full.is_file():
            raise IntegrityError(f"{folder} should contain the file {self.path}, but it does not; fetch it again.")
        size = full.stat().st_size
        if size != self.size_bytes:
            raise IntegrityError(
                f"{full} should have {self.size_bytes:,} bytes, but has {size:,} (truncated or replaced); "
                "fetch it again."
            )
        found = sha256_file(full)
        if found != self.sha256:
            raise IntegrityError(
                f"{full} should have sha256 {self.sha256[:16]}..., but has {found[:16]}...: its bytes were changed; "
                "fetch it again."
            )
        return full


class Parity(FrozenModel):
    """Largest relative error ``||onnx - torch|| / ||torch||`` seen over all checked inputs and batch sizes."""

    forward: float
    vjp: float | None = None
    batch_sizes: tuple[int, ...]


class SegmentEntry(FrozenModel):
    """One exported graph with its vector-Jacobian product."""

    layers: tuple[str, ...] = Field(description="Names of the backbone's layers inside, in order.")
    input: FeatureSpec
    output: FeatureSpec
    forward: FileEntry
    vjp: FileEntry | None = None
    save: FileEntry | None = Field(
        None, description="Forward that also returns the saved activations (vjp_mode 'save')."
    )
    saved: tuple[str, ...] = Field(
        (), description="Names of the saved tensors, in the order of the save graph's outputs."
    )
    parity: Parity

    def files(self) -> Iterator[FileEntry]:
        """Every file of the segment."""
        yield from (entry for entry in (self.forward, self.vjp, self.save) if entry is not None)


class AudioInput(FrozenModel):
    """What the audio stem takes: waveform ``(B, samples)`` float32 in [-1, 1].

    Shorter clips are padded with silence at the end to a multiple of ``pad_multiple_s``
    (or to ``fixed_samples``); ``token_stride`` is the number of samples one token covers.
    """

    kind: Literal["audio"] = "audio"
    sample_rate_hz: int = 16_000
    min_duration_s: float = 0.05
    max_duration_s: float
    pad_multiple_s: float = 1.0
    fixed_samples: int | None = Field(
        None, description="The stem takes exactly so many samples (fixed position table)."
    )
    token_stride: int | None = Field(
        None, description="Samples per token; None where tokens do not follow time one by one."
    )


class FramesInput(FrozenModel):
    """What the frames stem takes: pixels ``(B, 3, height, width)`` float32 in 0-255, RGB; it normalises them itself.

    Pictures of any size are resized (antialiased) so that the short side is ``height / crop_fraction``
    and cropped in the centre, or squashed whole when ``keep_aspect`` is false.
    """

    kind: Literal["frames"] = "frames"
    height: int
    width: int
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    crop_fraction: float = Field(1.0, gt=0, le=1)
    keep_aspect: bool = True


class MotionInput(FrozenModel):
    """What the motion stem takes: sensor readings ``(B, channels, samples)`` float32; it normalises them itself.

    Readings are resampled to ``rate_hz``. Longer ones are cut to the window in their middle, shorter ones padded at
    the end with ``mean``, which is zero once normalised; a mask tells tokens that cover real readings.
    """

    kind: Literal["motion"] = "motion"
    channels: int = Field(ge=1)
    rate_hz: float = Field(gt=0)
    window_s: float = Field(gt=0, description="The stem takes exactly so many seconds.")
    mean: tuple[float, ...] = Field(description="Of each channel, in the sensor's unit.")
    std: tuple[Annotated[float, Field(gt=0)], ...] = Field(description="Of each channel, in the sensor's unit.")
    samples_per_token: int = Field(ge=1)

    @model_validator(mode="after")
    def _fits(self) -> MotionInput:
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"mean and std should have {self.channels} numbers, one for each channel")
        if self.window_samples == 0 or self.window_samples % self.samples_per_token:
            raise ValueError(f"a window of {self.window_samples} samples is no whole number of tokens")
        return self

    @property
    def window_samples(self) -> int:
        """Samples of a window."""
        return round(self.window_s * self.rate_hz)


class TextInput(FrozenModel):
    """What the text stem takes: token ids ``(B, N)`` int64, ``2 <= N <= max_tokens``, never padded inside a call.

    A text becomes ids by WordPiece (``data/wordpiece.py``) with the bundle's own vocabulary; what is longer is cut.
    """

    kind: Literal["text"] = "text"
    vocabulary: FileEntry
    vocabulary_size: int = Field(ge=4, description="Pieces, the special ones included.")
    lowercase: bool = Field(True, description="The vocabulary is uncased and without accents.")
    max_tokens: int = Field(128, ge=4, le=512, description="Of one text, [CLS] and [SEP] included.")

    @property
    def token_stride(self) -> int:
        """Every id is a token (the counterpart of ``AudioInput.token_stride``)."""
        return 1


InputSpec = Annotated[AudioInput | FramesInput | MotionInput | TextInput, Field(discriminator="kind")]
"""What the stem of a modality takes."""


class WeightsOrigin(FrozenModel):
    """Where a backbone's weights come from."""

    source: str = Field(
        description="Package==version, timm name, hf_hub: id, or the checkpoint's file name (never a path)."
    )
    licence: str
    sha256: str | None = Field(None, description="Of the weights file, where there is one.")
    trained: bool = Field(description="False for random weights (export --untrained).")
    random_by_design: bool = Field(
        False,
        description="Random weights that are the method itself (random kernels), not a stand-in for trained ones.",
    )

    @model_serializer(mode="wrap")
    def _without_the_usual(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The flag is written only where it is set: bundles without such a backbone keep their digest."""
        values: dict[str, Any] = handler(self)
        return values if self.random_by_design else {k: v for k, v in values.items() if k != "random_by_design"}


class BackboneEntry(FrozenModel):
    """One exported backbone. ``segments[b].input`` to ``segments[b].output`` chain over the blocks."""

    modality: str = Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")
    name: str
    input: InputSpec
    stem: FileEntry
    stem_parity: Parity
    front_end_parity: float | None = Field(
        None, description="Relative error of the front end against torchaudio's own result."
    )
    segments: tuple[SegmentEntry, ...] = Field(min_length=1)
    output: SegmentEntry
    weights: FileEntry | None = Field(None, description="The large arrays of all its graphs, each of them once.")
    pool: PoolSpec
    origin: WeightsOrigin

    def files(self) -> Iterator[FileEntry]:
        """Every file of the backbone."""
        yield self.stem
        if isinstance(self.input, TextInput):
            yield self.input.vocabulary
        if self.weights is not None:
            yield self.weights
        for segment in (*self.segments, self.output):
            yield from segment.files()


class QuantizedGraph(FrozenModel):
    """What range calibration did to one forward graph. ``int8`` false: the float graph was kept, for ``reason``."""

    modality: str
    graph: str = Field(description="Its path in the bundle.")
    int8: bool
    reason: str | None = Field(None, description="Why the graph stayed float.")
    float_nodes: tuple[str, ...] = Field((), description="Nodes that measurement left in float inside an int8 graph.")
    snr_db: float | None = Field(None, description="Of its output on calibration inputs; None where it stayed float.")
    size_bytes: int
    float_size_bytes: int


class RangesRecord(FrozenModel):
    """How an int8 bundle was made from its float bundle."""

    method: Literal["minmax", "entropy", "percentile"]
    per_channel: bool
    reduce_range: bool = Field(description="Weights of 7 bits, for processors without VNNI.")
    samples: int = Field(description="Samples that the ranges were taken from.")
    graphs: tuple[QuantizedGraph, ...]


class PredictGraph(FrozenModel):
    """A whole model of one sample in one graph, the pack's weights being inputs (``export/predict_graph.py``).

    Inputs: for each modality its raw values ``(T, ...)`` and, where it has a length, ``<modality>_mask (1, N)`` bool;
    then the weights by their names in the model. Outputs: ``logits (1, C)``, ``joint (1, J)``, and each block's
    experts, ``expert_index`` and ``expert_weight (B, K)``.
    """

    file: FileEntry
    modalities: tuple[str, ...] = Field(description="Those that the sample has.")
    adapter: AdapterConfig
    head: HeadConfig

    def serves(self, adapter: AdapterConfig, head: HeadConfig) -> bool:
        """Whether a pack of these settings can be put into it: all that shapes the computation is equal."""
        return _shaping(adapter, head) == _shaping(self.adapter, self.head)


def _shaping(adapter: AdapterConfig, head: HeadConfig) -> dict[str, object]:
    free = {"experts", "router_noise", "freeze_experts", "modality_dropout", "cosine_scale"}
    return {**adapter.model_dump(exclude=free), **head.model_dump(exclude=free)}


class BundleManifest(FrozenModel):
    """Contents of ``bundle.json``."""

    schema_version: Literal[1] = 1
    blocks: int = Field(ge=1, description="B, segments per backbone.")
    vjp_mode: Literal["recompute", "save"] = "recompute"
    opset: int
    versions: dict[str, str] = Field(description="Package versions that made the bundle.")
    backbones: tuple[BackboneEntry, ...] = Field(min_length=1)
    predict: tuple[PredictGraph, ...] = Field((), description="At most one for each placement and set of modalities.")
    quantized_from: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="Digest of the float bundle whose int8 version this is."
    )
    ranges: RangesRecord | None = Field(None, description="With ``quantized_from``: how the ranges were found.")

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Optional fields that are absent are not written: a bundle without them keeps its digest."""
        optional = {name for name, field in type(self).model_fields.items() if field.default is None}
        return {key: value for key, value in handler(self).items() if value is not None or key not in optional}

    def files(self) -> Iterator[FileEntry]:
        """Every file of the bundle but the manifest."""
        for backbone in self.backbones:
            yield from backbone.files()
        yield from (graph.file for graph in self.predict)

    @property
    def trained(self) -> bool:
        """Whether every backbone carries the weights it should: trained ones, or random ones by design."""
        return all(entry.origin.trained or entry.origin.random_by_design for entry in self.backbones)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modality names in manifest order."""
        return tuple(entry.modality for entry in self.backbones)

    @property
    def inputs(self) -> dict[str, InputSpec]:
        """What the stem of each modality takes."""
        return {entry.modality: entry.input for entry in self.backbones}

    def backbone(self, modality: str) -> BackboneEntry:
        """The entry of one modality.

        Raises:
            BundleError: the bundle has no such backbone.
        """
        for entry in self.backbones:
            if entry.modality == modality:
                return entry
        raise BundleError(f"The bundle has backbones for {self.modalities}, but none for {modality!r}.")


class Bundle:
    """An opened, verified bundle. Use ``Bundle.open``.

    Attributes:
        path: the folder.
        manifest: its manifest.
        digest: sha256 of the canonical form of the JSON on disk: names the bundle everywhere.
    """

    def __init__(self, path: Path, manifest: BundleManifest, *, digest: str) -> None:
        self.path = path
        self.manifest = manifest
        self.digest = digest

    @classmethod
    def open(cls, path: Path | str, *, expected_digest: str | None = None) -> Bundle:
        """Read and verify the bundle in folder ``path`` (the rules stand in the module docstring).

        Raises:
            BundleError: any rule fails; the message names the file.
        """
        folder = Path(path)
        if not (folder / MANIFEST_NAME).is_file():
            raise BundleError(
                f"Expected a bundle (a folder with {MANIFEST_NAME}) at {folder}, but there is none; "
                "make one with 'mmcl-edge export --out DIR' or copy one there."
            )
        try:
            bundle = cls.unverified(folder)
            for file in bundle.manifest.files():
                file.verify(folder)
        except BundleError:
            raise
        except IntegrityError as error:
            raise BundleError(str(error)) from error
        if expected_digest is not None and bundle.digest != expected_digest:
            raise BundleError(
                f"Expected the bundle {expected_digest[:16]}..., but {folder} holds {bundle.digest[:16]}...; "
                "open the bundle that the pack was made for."
            )
        return bundle

    @classmethod
    def unverified(cls, folder: Path) -> Bundle:
        """The bundle with its manifest read, its files not looked at (rules 1 to 3).

        Raises:
            IntegrityError: there is no manifest, or it does not fit the schema.
        """
        raw = read_json(folder / MANIFEST_NAME)
        return cls(folder, _parse(raw, folder), digest=sha256_bytes(canonical_json(raw)))

    @property
    def family(self) -> str:
        """Digest of the float bundle: its own, or that of the bundle it was quantized from.

        Packs are bound to it, so that one pack serves a float bundle and its int8 versions.
        """
        return self.manifest.quantized_from or self.digest

    def file(self, entry: FileEntry) -> Path:
        """Full path of one of the bundle's files."""
        return self.path / entry.path


def _parse(raw: object, folder: Path) -> BundleManifest:
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"{folder / MANIFEST_NAME} has schema version {version!r}, but this release reads {SCHEMA_VERSION}; "
            "export the bundle again or install the release that made it."
        )
    try:
        return BundleManifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{folder / MANIFEST_NAME} is not a valid manifest: at '{where}', {first['msg']}.") from error
