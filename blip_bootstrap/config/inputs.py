"""What a run reads: lists of URLs, and pictures that people annotated."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from blip_bootstrap import __version__
from blip_bootstrap.config.section import (
    LATER,
    SPEED,
    Count,
    LocalPath,
    NonNegative,
    Positive,
    Section,
    ShardRows,
    counts_as,
)

AGENT = f"blip-bootstrap/{'.'.join(__version__.split('.')[:2])} (image dataset builder)"

FIRST_AGENT = "Mozilla/5.0 (compatible; blip-bootstrap; +https://github.com/rom1504/img2dataset)"
"""The default of the first releases, which their recipes hold."""

HeaderText = Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]*$", strip_whitespace=True)]
"""Text that a header can carry: printable ASCII on one line."""

AlarmShare = Annotated[float, Field(gt=0, le=1)]


class UrlList(Section):
    """One list of URLs with alt texts: TSV, CSV, JSON or Parquet."""

    path: LocalPath = Field(
        description="the file; format from its ending (.tsv .csv .txt .jsonl .json .parquet; .gz .bz2 .xz .zst beside)"
    )
    dataset: str | None = Field(None, description="its name in the tables; default: the file's name")
    url_column: str = "url"
    caption_column: str | None = Field("caption", description="null: the list has URLs alone")
    caption_lists: bool = Field(
        False, description="a cell that is a list of texts makes a row of each", json_schema_extra=LATER
    )
    url_prefix: str = Field("", description="put before every file name of the list, which is quoted as URLs need it")
    serve: LocalPath | None = Field(
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
    """Pictures with human captions, as JSON or Parquet: the paper's COCO."""

    path: LocalPath
    image_column: str = Field("image", description="a file name, relative to image_root")
    captions_column: str = "captions"
    domain_column: str = Field("domain", description="optional column: in, near or out (nocaps)")
    image_root: LocalPath | None = Field(None, description="folder of the pictures; default: beside the list")
    max_text_chars: Count = Field(10_000, description="a longer caption is left out", json_schema_extra=LATER)
    max_failed_share: AlarmShare = Field(
        1.0, description="an alarm where this share of the rows or more cannot be used", json_schema_extra=SPEED
    )
    rows_per_shard: ShardRows = 10_000


SameKind = Literal["held_out_in_human", "held_out_in_web", "human_in_web"]


class SamePicturesConfig(Section):
    """Pictures that are in two sets at once, by their bytes: they are told, and may be left out of training."""

    leave_out: tuple[SameKind, ...] = Field(
        ("held_out_in_human", "held_out_in_web", "human_in_web"),
        description="what no training sees: held-out pictures in the human set or the web's, human ones in the web's",
    )


class DownloadConfig(PictureRule):
    """Fetching and resizing the web's images; img2dataset's functions and meanings."""

    urls: tuple[UrlList, ...] = ()
    limit: Count | None = Field(None, description="use only the first rows of each list")
    min_image_size: NonNegative = Field(0, description="smaller pictures are failed_to_resize, px of the short side")
    max_aspect_ratio: Annotated[float, Field(gt=0)] = Field(20.0, description="long side over short side; .inf: any")
    timeout_s: Positive = 10.0
    num_retries: NonNegative = Field(1, description="after time-outs, broken connections and HTTP 5xx or 429")
    num_threads: Count = Field(32, description="parallel fetches per Ray task", json_schema_extra=SPEED)
    max_bytes: Count = Field(50_000_000, description="a larger body is not read on")
    max_text_chars: Count = Field(
        10_000, description="a longer alt text is stored cut, and is no pair (text_too_long)", json_schema_extra=LATER
    )
    allow_private_addresses: bool = Field(False, description="fetch from loopback and private networks too")
    honour_noai: bool = Field(True, description="refuse images whose X-Robots-Tag says noai or noimageai")
    use_proxies: bool = Field(
        True,
        description="go through the environment's http_proxy, https_proxy and all_proxy, except to no_proxy's hosts",
        json_schema_extra=SPEED,
    )
    user_agent: HeaderText = Field(
        AGENT, description="how servers see the fetcher", min_length=1, json_schema_extra=counts_as(FIRST_AGENT)
    )
    contact: HeaderText = Field(
        "",
        description="a page or mail address in the user agent, for those who run the servers",
        json_schema_extra=SPEED,
    )
    max_failed_share: AlarmShare = Field(
        1.0, description="an alarm where this share of the URLs or more gave no picture", json_schema_extra=SPEED
    )
    rows_per_shard: ShardRows = 10_000

    @property
    def agent(self) -> str:
        """The User-Agent header: `user_agent`, the contact in its comment or as one."""
        if not self.contact:
            return self.user_agent
        if self.user_agent.endswith(")"):
            return f"{self.user_agent[:-1]}; {self.contact})"
        return f"{self.user_agent} ({self.contact})"
