"""What a run reads: lists of URLs, and pictures that people annotated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from blip_bootstrap.config.sections import (
    LATER,
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


class PictureRule(Section):
    """How a picture is stored, whether it is from the web or from an annotated set, and what decoding it may cost.

    An annotated set has download's values where it does not set its own.
    """

    image_size: Count = Field(256, description="px; see resize_mode")
    resize_mode: Literal["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"] = Field(
        "keep_ratio",
        description="what gets image_size: keep_ratio the short side, keep_ratio_largest the long one; center_crop as "
        "the first, a square cut out; border as the second, in a white square; no: nothing; none is enlarged",
    )
    encode_quality: Annotated[int, Field(ge=1, le=100, description="of the JPEG")] = 95
    max_pixels: Count = Field(25_000_000, description="a larger picture is not decoded")
    decode_timeout_s: Positive = Field(
        10.0, description="seconds of processor time that decoding a picture may take", json_schema_extra=LATER
    )


class AnnotatedSet(PictureRule):
    """Pictures with human captions, as JSON lines or Parquet: the paper's COCO."""

    path: Path
    image_column: str = Field("image", description="a file name, relative to image_root")
    captions_column: str = "captions"
    domain_column: str = Field("domain", description="optional column: in, near or out (nocaps)")
    image_root: Path | None = Field(None, description="folder of the pictures; default: beside the list")
    rows_per_shard: ShardRows = 10_000


class DownloadConfig(PictureRule):
    """Fetching and resizing the web's images; img2dataset's functions and meanings."""

    urls: tuple[UrlList, ...] = ()
    limit: Count | None = Field(None, description="use only the first rows of each list")
    min_image_size: NonNegative = Field(0, description="smaller pictures are failed_to_resize, px of the short side")
    max_aspect_ratio: Positive = Field(20.0, description="long side over short side")
    timeout_s: Positive = 10.0
    num_retries: NonNegative = Field(1, description="after time-outs, broken connections and HTTP 5xx or 429")
    num_threads: Count = Field(32, description="parallel fetches per Ray task", json_schema_extra=SPEED)
    max_bytes: Count = Field(50_000_000, description="a larger body is not read on")
    allow_private_addresses: bool = Field(False, description="fetch from loopback and private networks too")
    honour_noai: bool = Field(True, description="refuse images whose X-Robots-Tag says noai or noimageai")
    user_agent: str = "Mozilla/5.0 (compatible; blip-bootstrap; +https://github.com/rom1504/img2dataset)"
    rows_per_shard: ShardRows = 10_000
