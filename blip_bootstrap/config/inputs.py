"""What a run reads: lists of URLs, and pictures that people annotated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from blip_bootstrap.config.sections import (
    SPEED,
    Count,
    NonNegative,
    Positive,
    Section,
    ShardRows,
)


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


SameKind = Literal["held_out_in_human", "held_out_in_web", "human_in_web"]


class SamePicturesConfig(Section):
    """Pictures that are in two sets at once, by their bytes: they are told, and may be left out of training."""

    leave_out: tuple[SameKind, ...] = Field(
        ("held_out_in_human", "held_out_in_web", "human_in_web"),
        description="what no training sees: held-out pictures in the human set or the web's, human ones in the web's",
    )


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
