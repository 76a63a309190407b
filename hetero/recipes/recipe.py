"""What a recipe says: data, anchor, student, export, gates and measuring, in one validated object."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from hetero.config import Config
from hetero.data.augment import AugmentConfig
from hetero.models.build import NetworkConfig, preset
from hetero.objectives.neighbours import CsdConfig
from hetero.objectives.terms import MarginSoftmaxConfig, Need, TermConfig
from hetero.quantisation.config import QuantisedConfig
from hetero.search.config import SearchConfig
from hetero.training.optimizer import FitConfig
from hetero_devices.bundle import Precision, check_choice
from hetero_devices.runtimes.base import Format


class DataConfig(Config):
    """Where images come from and how they are split; see `hetero data --help`."""

    source: str = Field(
        default="glyphs",
        description="named data set, folder, archive, CSV/parquet manifest or .npz",
    )
    size: int = Field(default=32, ge=8, le=1024, description="side of the square images in pixels")
    root: str | None = Field(default=None, description="folder of the named data sets; else HETERO_DATA_ROOT")
    base_url: str | None = Field(
        default=None, description="where named data sets are downloaded from; else HETERO_DATA_URL"
    )
    validation_share: float = Field(default=0.1, ge=0, lt=1, description="of the training classes")
    train_classes: int | None = Field(
        default=None, ge=2, description="train on only so many of the training classes, the first by name"
    )
    train_share: float = Field(
        default=1.0, gt=0, le=1, description="of the images of every training class, drawn by the seed"
    )
    rotations: bool = Field(default=False, description="quarter turns of a class are classes of their own")
    protocol: str | None = Field(
        default=None, description="leave-one-out, one-per-class, group=N or designated"
    )
    group_pattern: str | None = Field(
        default=None, description="regular expression whose group 1 is the image's group"
    )
    augment: AugmentConfig = AugmentConfig()


class AnchorConfig(Config):
    """The model that defines the space: trained here, or brought.

    source: `train`; an ONNX file; a folder of stored embeddings (as `hetero embed` writes);
    a folder of a trained model; or `package.module:function` returning a torch module
    that maps float32 [N, 3, S, S] (preprocessed) to float32 [N, D].
    """

    source: str = "train"
    also: tuple[str, ...] = Field(
        default=(), description="folders of further old models of the same space, for an upgrade of several"
    )
    network: NetworkConfig = Field(default_factory=lambda: preset("residual-m"))
    objective: tuple[TermConfig, ...] = Field(default=(MarginSoftmaxConfig(),), min_length=1)
    fit: FitConfig = FitConfig(steps=6000, precision="bf16")


class StudentConfig(Config):
    """The compact model. `alone` also trains the same network without the anchor, as the control.

    objective: by default the one that benchmarks/objectives.py recommends.

    dimension: how network.dim relates to the anchor's: `equal` to it; a `projection`, a linear layer that is
    part of the deployed network, leads into the anchor's space; the student emits a `prefix`, the first
    network.dim dimensions of the anchor's space, whose gallery is cut likewise; or it is `extended`: its own
    space is larger, and its first dimensions are the anchor's (`hetero.runs.extension`).
    """

    network: NetworkConfig = Field(default_factory=lambda: preset("elastic-m"))
    objective: tuple[TermConfig, ...] = Field(default=(CsdConfig(),), min_length=1)
    fit: FitConfig = FitConfig(steps=8000)
    start: str | None = Field(
        default=None, description="weights to start from instead of random ones: a .safetensors file"
    )
    dimension: Literal["equal", "projection", "prefix", "extended"] = "equal"
    views: int = Field(
        default=4, ge=0, description="augmented views whose anchor embeddings are cached; 0: it runs live"
    )
    alone: bool = True
    alone_objective: tuple[TermConfig, ...] = Field(default=(MarginSoftmaxConfig(),), min_length=1)
    quantised: QuantisedConfig | None = Field(
        default=None, description="how it is finished for int8, if at all"
    )


CalibrationMethod = Literal["minmax", "percentile", "entropy", "mse"]


class CalibrationConfig(Config):
    """How static int8 chooses the ranges of activations; a bare integer is the number of images.

    method: the extremes of the values seen, the range that keeps `percentile` % of them, the one that
    distorts their distribution least (entropy), or the one of the least squared error.
    """

    images: int = Field(default=256, ge=2, description="training images, from as many classes as there are")
    method: CalibrationMethod = "minmax"
    percentile: float = Field(default=99.99, gt=50, le=100, description="of the values, by that method")

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, written: object) -> object:
        number = isinstance(written, int) and not isinstance(written, bool)
        return {"images": written} if number else written


class MixedConfig(Config):
    """Precision `mixed`: int8 with the most sensitive layers in float32, until either limit is reached."""

    target: float = Field(default=1e-4, gt=0, le=2, description="mean 1 - cosine against float32")
    max_macs: float = Field(default=0.25, ge=0, le=1, description="share of multiply-accumulates in float32")
    max_layers: int | None = Field(default=None, ge=0, description="layers in float32")
    images: int = Field(default=64, ge=1, description="calibration images by which layers are compared")


class ExportConfig(Config):
    """Which artefacts a bundle holds; calibration images come from the training classes."""

    formats: tuple[Format, ...] = Field(default=("onnx", "tflite"), min_length=1)
    precisions: tuple[Precision, ...] = Field(default=("fp32", "int8"), min_length=1)
    calibration: CalibrationConfig = CalibrationConfig()
    mixed: MixedConfig = MixedConfig()
    golden: int = Field(default=16, ge=1, description="images whose vectors travel with the bundle")
    link: str | None = Field(
        default=None, description="a link file: the exported student embeds into its target space"
    )

    @model_validator(mode="after")
    def _in_every_format(self) -> ExportConfig:
        check_choice(self.formats, self.precisions)
        return self


class GateConfig(Config):
    """Thresholds an artefact must pass to count as done; each is a line of the report. None: not asked for.

    float32 and float16 artefacts must be near-exact; every other precision counts as quantised, and its loss
    in retrieval is bounded. Losses are of the artefact against the float model on the same queries.

    rule: what must stay within a loss. `value`: the measured difference; on few queries it may pass or fail
    by luck, and the interval stands beside it. `interval`: the lower end of its 95 % interval (a test of
    non-inferiority), so too few queries fail instead of passing unproven.
    """

    rule: Literal["value", "interval"] = Field(default="value", description="what must stay within a loss")
    fp32_min_cosine: float = Field(default=0.9999, description="of any query, exported against torch")
    fp32_top1_same: float = Field(default=1.0, description="queries whose first result stays")
    fp16_min_cosine: float = Field(default=0.999, description="as fp32_min_cosine, of half precision")
    fp16_top1_same: float = Field(default=0.99, description="as fp32_top1_same, of half precision")
    int8_recall_drop: float = Field(
        default=0.01, description="largest loss of asymmetric Recall@1 by any quantised precision, absolute"
    )
    int8_map_drop: float | None = Field(default=0.01, description="the same of mAP")
    int8_min_cosine: float | None = Field(default=None, description="of any query, any quantised precision")
    int8_top10_overlap: float | None = Field(
        default=None, description="smallest mean share of the first ten results that stay"
    )
    int8_negative_flips: float | None = Field(
        default=None, description="largest share of queries right in float and wrong when quantised"
    )
    recall: float | None = Field(default=None, description="smallest asymmetric Recall@1 of any artefact")
    criterion: bool = Field(default=True, description="M(student, anchor) > M(alone, alone) by its interval")
    latency_ms: float | None = Field(default=None, description="largest median of the fastest artefact")
    latency_ratio: float | None = Field(
        default=None, description="largest median of a quantised artefact over fp32's, of the best format"
    )
    size_kb: float | None = Field(default=None, description="largest size of the smallest artefact")
    size_ratio: float | None = Field(
        default=None, description="largest size of a quantised artefact over fp32's, of the best format"
    )
    delegated_share: float | None = Field(
        default=0.5, description="smallest share of operators that XNNPACK runs, where the runtime has it"
    )
    device_float_drift: float | None = Field(
        default=1e-5, description="largest 1 - cosine of a float file on a device and on this machine"
    )
    device_int8_drift: float | None = Field(
        default=1e-3, description="the same of a quantised file; builtin kernels without XNNPACK need 2e-2"
    )
    device_negative_flips: float | None = Field(
        default=0.005, description="largest share of queries right on this machine and wrong on a device"
    )
    float_layers: int | None = Field(
        default=0, description="most convolutions and matrix products in float in a full-integer artefact"
    )


class GalleryConfig(Config):
    """codecs: compressed forms of the anchor's gallery that are compared, see `hetero compress --help`."""

    codecs: tuple[str, ...] = ()


class MeasureConfig(Config):
    """How latency is measured: warm-up, then until both minima are reached."""

    threads: int = Field(default=1, ge=1)
    warmup: int = Field(default=20, ge=0)
    min_samples: int = Field(default=200, ge=1)
    min_seconds: float = Field(default=1.0, ge=0)
    max_seconds: float = Field(default=30.0, gt=0)
    cpus: tuple[int, ...] = Field(default=(), description="processors to pin to; empty: the system's choice")
    repeats: int = Field(default=1, ge=1, description="processes that measure latency; the median is kept")


class Recipe(Config):
    """The whole loop, from images to report."""

    name: str
    seed: int = Field(default=0, ge=0, lt=2**31)
    data: DataConfig = DataConfig()
    anchor: AnchorConfig = AnchorConfig()
    student: StudentConfig = StudentConfig()
    export: ExportConfig = ExportConfig()
    gates: GateConfig = GateConfig()
    gallery: GalleryConfig = GalleryConfig()
    measure: MeasureConfig = MeasureConfig()
    search: SearchConfig = SearchConfig()

    @model_validator(mode="after")
    def _without_anchor(self) -> Recipe:
        objectives = {
            "anchor.objective": self.anchor.objective,
            "student.alone_objective": self.student.alone_objective,
        }
        for key, terms in objectives.items():
            for term in terms:
                if term.needs - {Need.LABELS, Need.MODELS}:
                    raise ValueError(f"{key}: the term {term.term!r} needs an anchor, and here there is none")
        return self

    @model_validator(mode="after")
    def _extended(self) -> Recipe:
        if self.student.dimension == "extended" and (self.student.quantised or self.gates.criterion):
            key = "student.quantised=null" if self.student.quantised else "gates.criterion=false"
            raise ValueError(f"an extended student does not live in the anchor's space: set {key}")
        return self

    @model_validator(mode="after")
    def _gate_needs_control(self) -> Recipe:
        if self.gates.criterion and not self.student.alone:
            raise ValueError(
                "gates.criterion compares with the student trained alone: set student.alone=true"
            )
        return self
