"""One frozen configuration tree, from YAML and `--set a.b=c`; every mistake is listed at once."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from blip_bootstrap.errors import ConfigError, InputError

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
ShardRows = Annotated[int, Field(ge=1, le=100_000)]  # five digits of a key count the rows of a shard
Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["float32", "bfloat16"]
SPEED: dict[str, JsonValue] = {"speed": True}
"""Marks a setting that decides how fast a result comes, never the result: a change of it makes nothing anew."""


class Section(BaseModel):
    """A part of the configuration: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


# ---------------------------------------------------------------------------------------------------------- input


class UrlList(Section):
    """One list of URLs with alt texts: TSV, CSV, JSON lines or Parquet."""

    path: Path = Field(description="the file; format from its ending (.tsv .csv .jsonl .parquet)")
    dataset: str | None = Field(None, description="its name in the tables; default: the file's name")
    url_column: str = "url"
    caption_column: str = "caption"
    url_prefix: str = Field("", description="put before every URL of the list, for lists of bare file names")
    serve: Path | None = Field(
        None, description="a folder of pictures, served over loopback HTTP while the step runs; the list has file names"
    )
    serve_port: Annotated[int, Field(ge=1, le=65_535)] = Field(8765, description="part of the URLs in the tables")

    @model_validator(mode="after")
    def _one_prefix(self) -> UrlList:
        if self.serve and self.url_prefix:
            raise ValueError("serve gives the URLs their prefix; leave url_prefix out")
        return self

    @property
    def name(self) -> str:
        """The dataset's name in the tables."""
        return self.dataset or self.path.stem


class AnnotatedSet(Section):
    """Pictures with human captions, as JSON lines or Parquet: the paper's COCO."""

    path: Path
    image_column: str = Field("image", description="a file name, relative to image_root")
    captions_column: str = "captions"
    domain_column: str = Field("domain", description="optional column: in, near or out (nocaps)")
    image_root: Path | None = Field(None, description="folder of the pictures; default: beside the list")
    image_size: Count = Field(256, description="longest side as stored, px; larger pictures are made smaller")
    rows_per_shard: ShardRows = 10_000


class DownloadConfig(Section):
    """Fetching and resizing the web's images; img2dataset's functions and meanings."""

    urls: tuple[UrlList, ...] = ()
    limit: Count | None = Field(None, description="use only the first rows of each list")
    image_size: Count = Field(256, description="px; see resize_mode")
    resize_mode: Literal["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"] = "keep_ratio"
    min_image_size: NonNegative = Field(0, description="smaller pictures are failed_to_resize, px of the short side")
    max_aspect_ratio: Positive = Field(20.0, description="long side over short side")
    encode_quality: Annotated[int, Field(ge=1, le=100)] = 95
    timeout_s: Positive = 10.0
    num_retries: NonNegative = Field(1, description="after time-outs, broken connections and HTTP 5xx or 429")
    num_threads: Count = Field(32, description="parallel fetches per Ray task", json_schema_extra=SPEED)
    max_bytes: Count = Field(50_000_000, description="a larger body is not read on")
    max_pixels: Count = Field(100_000_000, description="a larger picture is not decoded")
    allow_private_addresses: bool = Field(False, description="fetch from loopback and private networks too")
    honour_noai: bool = Field(True, description="refuse images whose X-Robots-Tag says noai or noimageai")
    user_agent: str = "Mozilla/5.0 (compatible; blip-bootstrap; +https://github.com/rom1504/img2dataset)"
    rows_per_shard: ShardRows = 10_000


# ---------------------------------------------------------------------------------------------------------- model


class VisionConfig(Section):
    """The image encoder: a ViT, or a frozen EfficientNet-Lite0 grid with a few ViT blocks on top (`mini`)."""

    kind: Literal["vit", "efficientnet-lite0"] = "vit"
    image_size: Count = 224
    patch_size: Count = 16
    width: Count = 768
    depth: NonNegative = 12
    heads: Count = 12
    drop_path: Fraction = 0.0
    start: str | None = Field(None, description="folder or hub name of a ViT in transformers format")

    @model_validator(mode="after")
    def _fits(self) -> VisionConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.kind == "vit" and self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        return self


class TextConfig(Section):
    """The text stack: BERT with cross-attention, two sets of self-attention (section 3.1)."""

    tokenizer: str = Field("bert-base-uncased", description="folder, vocab.txt or hub name of a BERT tokenizer")
    width: Count = 768
    depth: Count = 12
    heads: Count = 12
    intermediate: Count = 3072
    max_tokens: Annotated[int, Field(ge=8)] = Field(30, description="training texts are cut here, specials included")
    max_positions: Count = 512
    dropout: Fraction = 0.1
    start: str | None = Field(None, description="folder or hub name of a BERT in transformers format")

    @model_validator(mode="after")
    def _fits(self) -> TextConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.max_tokens > self.max_positions:
            raise ValueError(f"max_tokens {self.max_tokens} is more than max_positions {self.max_positions}")
        return self


class ModelConfig(Section):
    """MED, the multimodal mixture of encoder-decoder (section 3.1)."""

    vision: VisionConfig = VisionConfig()
    text: TextConfig = TextConfig()
    embed_dim: Count = Field(256, description="of the ITC embeddings")
    share: Literal["all", "all_but_ca", "all_but_sa", "none"] = Field(
        "all_but_sa", description="what the text encoder and decoder share (Table 3); the paper's is all_but_sa"
    )
    itc_in_itm: bool = Field(False, description="add the ITC similarity to the ITM logit; departs from the paper")


# ------------------------------------------------------------------------------------------------------- training


class OptimizerConfig(Section):
    """AdamW and its schedule, in optimizer steps (section 4.1)."""

    steps: NonNegative = 100_000
    batch_size: Count = Field(256, description="images per optimizer step, over all workers")
    accumulate: Count = Field(1, description="micro-batches per optimizer step")
    lr: Positive = 3e-4
    min_lr: Annotated[float, Field(ge=0)] = 0.0
    warmup_steps: NonNegative = 3000
    schedule: Literal["cosine", "exponential", "constant"] = "cosine"
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    clip_norm: Positive | None = 1.0
    seed: int = 0
    device: Device = "auto"
    dtype: Dtype = Field("float32", description="bfloat16: autocast; weights stay float32")
    compile: bool = False
    activation_checkpointing: bool = False
    threads: NonNegative = Field(
        0, description="CPU threads of each worker; 0: its share of the cores", json_schema_extra=SPEED
    )
    checkpoint_every_steps: Count = Field(1000, json_schema_extra=SPEED)
    log_every_steps: Count = Field(20, json_schema_extra=SPEED)


class ItcConfig(Section):
    """Image-text contrastive learning with a momentum encoder (section 3.2, after ALBEF)."""

    momentum: Fraction = 0.995
    queue_size: NonNegative = 57_600
    temperature: Annotated[float, Field(ge=0.001, le=0.5)] = 0.07
    alpha: Fraction = Field(0.4, description="weight of the momentum model's soft targets")
    alpha_ramp_steps: NonNegative = Field(10_000, description="alpha rises from 0 over so many steps")


class ItmConfig(Section):
    """Image-text matching with hard negatives (section 3.2)."""

    uniform_share: Fraction = Field(0.0, description="share of negatives drawn uniformly, not by ITC similarity")
    mask_duplicate_texts: bool = Field(True, description="an equal text of another image is never a negative")


class PretrainConfig(Section):
    """Pre-training of MED with ITC + ITM + LM (sections 3.2 and 4.1). `optimizer.steps: 0` leaves it out."""

    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    itc: ItcConfig = ItcConfig()
    itm: ItmConfig = ItmConfig()
    label_smoothing: Fraction = 0.1
    human_share: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="share of each batch from the human set; 0: in proportion to its size"
    )
    start_from: Literal["scratch", "previous"] = Field("scratch", description="the paper: scratch (Table 13)")
    augment: Literal["none", "crop", "randaugment"] = "randaugment"
    num_workers: Count = Field(1, description="training processes that share each batch")


class FinetuneConfig(Section):
    """Fine-tuning of a captioner or filter on the human set (section 3.3), or one that is given."""

    checkpoint: str | None = Field(None, description="a given model: folder, .pth or hub name; no fine-tuning then")
    optimizer: OptimizerConfig = OptimizerConfig(steps=5000, lr=1e-5, warmup_steps=0, batch_size=256)
    itc: ItcConfig = ItcConfig(queue_size=57_600, alpha_ramp_steps=0)
    itm: ItmConfig = ItmConfig()
    prompt: str = "a picture of"
    label_smoothing: Fraction = 0.1
    augment: Literal["none", "crop", "randaugment"] = "randaugment"
    validate_every_steps: NonNegative = Field(0, description="0: keep the last; else keep the best on validation")
    num_workers: Count = Field(1, description="training processes that share each batch")


# --------------------------------------------------------------------------------------------- caption and select


class SamplerConfig(Section):
    """How the captioner writes. `preset` sets the rest; what is given beside it wins."""

    preset: Literal["blip-official", "nucleus", "beam", "greedy"] = "nucleus"
    top_p: Fraction | None = None
    top_k: NonNegative | None = Field(None, description="0: off")
    temperature: Positive | None = None
    repetition_penalty: Positive | None = None
    num_beams: Count | None = None
    min_tokens: NonNegative | None = Field(
        None, description="with the prompt, the token before it and the one that ends the text, as transformers counts"
    )
    max_tokens: Count | None = Field(None, description="as min_tokens; a text that reaches it is cut there")


class CaptionConfig(Section):
    """Synthetic captions and the scores of all texts (section 3.3)."""

    sampler: SamplerConfig = SamplerConfig()
    candidates: Count = Field(1, description="synthetic captions per image")
    prompt: str = "a picture of"
    batch_size: Count = Field(64, json_schema_extra=SPEED)
    device: Device = Field("auto", json_schema_extra=SPEED)
    dtype: Dtype = "float32"
    num_actors: NonNegative = Field(
        0, description="Ray actors; 0: as many as the cluster's CPUs or GPUs carry", json_schema_extra=SPEED
    )
    cpus_per_actor: Positive = Field(1.0, json_schema_extra=SPEED)
    gpus_per_actor: Annotated[float, Field(ge=0)] = Field(0.0, json_schema_extra=SPEED)
    seed: int = 0


class SelectConfig(Section):
    """Which captions become pairs; the paper's rule is the default."""

    strategy: Literal["threshold", "best_per_image", "top_k", "fraction", "target_noise"] = Field(
        "threshold", description="best_per_image and top_k choose among what the threshold leaves"
    )
    sources: tuple[Literal["web", "synthetic"], ...] = ("web", "synthetic")
    itm_threshold: Fraction = Field(0.5, description="a text below it is dropped")
    score: Literal["itm", "itc", "logprob"] = Field("itm", description="what best_per_image, top_k, fraction rank by")
    top_k: Count = Field(1, description="top_k: texts kept of each image")
    keep_fraction: Fraction = Field(0.5, description="fraction: share of the scored texts that the cut leaves")
    target_noise: Fraction = Field(0.1, description="target_noise: share of kept texts that may be wrong")
    labels: Path | None = Field(None, description="target_noise: answered sample of `audit label`, Parquet")
    synthetic_share: Fraction | None = Field(None, description="thin out web or synthetic pairs to this share")
    explore_share: Fraction = Field(0.0, description="share of the texts below the threshold kept, against collapse")
    seed: int = Field(0, description="of the two above")
    min_tokens: NonNegative = Field(1, description="words")
    max_tokens: Count = Field(200, description="words")
    drop_flagged: bool = Field(True, description="drop synthetic texts that carry a flag")

    @model_validator(mode="after")
    def _has_labels(self) -> SelectConfig:
        if self.strategy == "target_noise" and self.labels is None:
            raise ValueError("strategy target_noise needs labels (`blip-bootstrap audit sample`, then `audit label`)")
        return self


# ---------------------------------------------------------------------------------------------- evaluate and report


class EvaluateConfig(Section):
    """Figures on the held-out set."""

    batch_size: Count = 64
    device: Device = "auto"
    dtype: Dtype = "float32"
    rerank_top_k: NonNegative = Field(0, description="retrieval: ITM re-ranks the ITC top k (paper: 256, 128); 0: off")
    sampler: SamplerConfig = SamplerConfig(preset="beam")
    prompt: str = "a picture of"
    limit: Count | None = None
    meteor: bool = Field(False, description="needs java")
    seed: int = 0


class ControlsConfig(Section):
    """The arms of the paper's Table 1, trained like the round's model on other pairs, for comparison."""

    arms: tuple[Literal["human_only", "filter_only", "captioner_only", "oracle"], ...] = ()
    num_parallel: Count = Field(1, description="arms trained at the same time", json_schema_extra=SPEED)


class TrainControlsConfig(ControlsConfig):
    """What training the controls depends on: the arms, and the settings of the round's own model and evaluation."""

    pretrain: PretrainConfig
    evaluate: EvaluateConfig

    @classmethod
    def of(cls, config: Config) -> TrainControlsConfig:
        """The part of a whole configuration that the controls depend on."""
        return cls(**config.controls.model_dump(), pretrain=config.pretrain, evaluate=config.evaluate)


class ReportConfig(Section):
    """The page of a round."""

    num_gallery: NonNegative = Field(24, description="pictures in each gallery")
    seed: int = 0


class RayConfig(Section):
    """Where Ray runs; results do not depend on it."""

    address: str = Field("local", description="local, auto or the address of a cluster")
    trainer: Literal["auto", "ray_train", "task"] = Field(
        "auto", description="Ray Train, or for one worker a plain Ray task; auto: a task for one worker on the CPU"
    )
    num_cpus: Count | None = Field(None, description="logical CPUs of a local Ray; default: those of the machine")
    object_store_bytes: Annotated[int, Field(ge=80_000_000)] = 500_000_000


class Config(Section):
    """The whole configuration of a run."""

    root: Path = Path("runs/default")
    seed: int = Field(0, description="of every section that does not set its own")
    download: DownloadConfig = DownloadConfig()
    human: AnnotatedSet | None = None
    held_out: AnnotatedSet | None = None
    truth: Path | None = Field(None, description="JSON lines of what is really in the pictures: for measuring alone")
    pretrain: PretrainConfig = PretrainConfig()
    captioner: FinetuneConfig = FinetuneConfig()
    filter: FinetuneConfig = FinetuneConfig()
    caption: CaptionConfig = CaptionConfig()
    select: SelectConfig = SelectConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    controls: ControlsConfig = ControlsConfig()
    report: ReportConfig = ReportConfig()
    ray: RayConfig = RayConfig()

    @model_validator(mode="before")
    @classmethod
    def _spread_seed(cls, data: Any) -> Any:
        """The top-level seed reaches every section that has a seed and does not set it."""
        if not isinstance(data, Mapping) or "seed" not in data:
            return data
        spread: dict[str, Any] = dict(data)
        for path in _SEEDED:
            node = spread
            for name in path[:-1]:
                child = node.get(name, {})
                if not isinstance(child, Mapping):
                    break
                node[name] = node = dict(child)
            else:
                leaf = node.get(path[-1], {})
                if isinstance(leaf, Mapping):
                    node[path[-1]] = {"seed": data["seed"], **leaf}
        return spread


_SEEDED = (
    ("pretrain", "optimizer"), ("captioner", "optimizer"), ("filter", "optimizer"), ("caption",), ("select",),
    ("evaluate",), ("report",),
)  # fmt: skip


def load_config(path: Path | None = None, settings: Sequence[str] = (), **overrides: Any) -> Config:
    """The configuration from a YAML file, then `settings` ("a.b=c", values as YAML), then keyword overrides.

    Relative paths in the file are relative to the working directory, as on a command line.
    Raises ConfigError with one line for each mistake, InputError where the file cannot be read.
    """
    data = _read_yaml(path) if path else {}
    mistakes = [m for setting in settings if (m := _apply(data, setting))]
    for name, value in overrides.items():
        if value is not None:
            mistakes += [m for m in [_apply(data, f"{name.replace('__', '.')}={value}")] if m]
    config, more = _validate(data)
    mistakes += more
    if mistakes or config is None:
        raise ConfigError(mistakes)
    return config


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise InputError(f"{path}: a mapping of sections was expected, found {type(data).__name__}")
    return data


def _apply(data: dict[str, Any], setting: str) -> str | None:
    """Put one `a.b=c` into `data`; the mistake in words, or None."""
    name, equals, value = setting.partition("=")
    if not equals or not name:
        return f"--set {setting}: expected section.key=value"
    *parents, leaf = name.split(".")
    node = data
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            child = node[parent] = {}
        node = child
    try:
        node[leaf] = yaml.safe_load(value) if value else None
    except yaml.YAMLError:
        node[leaf] = value
    return None


def _validate(data: dict[str, Any]) -> tuple[Config | None, list[str]]:
    try:
        return Config.model_validate(data), []
    except ValidationError as error:
        return None, [_mistake(dict(item)) for item in error.errors()]


def _mistake(item: dict[str, Any]) -> str:
    """One pydantic error as one line, with a guess where a key is unknown."""
    where = ".".join(str(part) for part in item["loc"]) or "config"
    if item["type"] == "extra_forbidden":
        known = list(_fields_at(item["loc"][:-1]))
        close = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known keys: {', '.join(sorted(known))}"
        return f"{where}: unknown key; {hint}"
    message = str(item["msg"]).removeprefix("Value error, ")
    value = item.get("input")
    shown = f" (got {value!r})" if isinstance(value, (str, int, float, bool)) or value is None else ""
    return f"{where}: {message[0].lower()}{message[1:]}{shown}"


def _fields_at(loc: tuple[Any, ...]) -> Mapping[str, Any]:
    """The fields of the section at `loc`."""
    model: type[BaseModel] = Config
    for name in loc:
        if isinstance(name, int):
            continue
        field = model.model_fields.get(str(name))
        section = _section_type(field.annotation) if field else None
        if section is None:
            return {}
        model = section
    return model.model_fields


def _section_type(annotation: Any) -> type[BaseModel] | None:
    """The section class inside an annotation such as `AnnotatedSet | None` or `tuple[UrlList, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) is not None:
        for inner in get_args(annotation):
            found = _section_type(inner)
            if found:
                return found
    return None


def dump_yaml(config: Section) -> str:
    """The resolved configuration as YAML, with every default written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
