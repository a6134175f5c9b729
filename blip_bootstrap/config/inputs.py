"""The inputs of a run: lists of URLs, and pictures with captions that people wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from blip_bootstrap import __version__
from blip_bootstrap.paths import root_text
from blip_bootstrap.settings.marks import CountsAs, Grows, Later, ListPath, Speed
from blip_bootstrap.settings.section import Count, InputPath, LocalPath, NonNegative, Positive, Section, ShardRows

AGENT = f"blip-bootstrap/{'.'.join(__version__.split('.')[:2])}"

FIRST_AGENT = "Mozilla/5.0 (compatible; blip-bootstrap; +https://github.com/rom1504/img2dataset)"
"""The default of the first releases, which their recipes hold."""

HeaderText = Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]*$", strip_whitespace=True)]
"""Text that an HTTP header can carry: printable ASCII on one line."""

Interpolation = Literal["nearest", "linear", "cubic", "area", "lanczos"]
"""Of img2dataset's names, one for each kind (`bilinear`, `bicubic` and `lanczos4` are others of the same)."""

AlarmShare = Annotated[float, Field(gt=0, le=1)]

Respect = Literal["obey", "record", "ignore"]
"""What is done about a host's words: a picture is not fetched, or only a column says so, or nobody asks."""


class UrlList(Section):
    """One list of URLs with alt texts: TSV, CSV, JSON or Parquet, of one file or many."""

    path: Annotated[InputPath, ListPath()] = Field(
        description="the file, or a folder or a pattern (`lists/*.parquet`) of many, of this machine or of a store "
        "(s3://, gs://); a file's format is told by its ending (.tsv .csv .txt .jsonl .json .parquet, and with .gz "
        ".bz2 .xz .zst after it)"
    )
    dataset: str | None = Field(None, description="name of the list in the tables; null: the file's name")
    url_column: str = Field(
        "url", description="column with the URLs; where the list has no `url`, the name that LAION's and others have"
    )
    caption_column: str | None = Field(
        "caption",
        description="column with the alt texts; where the list has no `caption`, the name that published lists have "
        "(text, TEXT, alt_text, ...); null: the list has URLs alone",
    )
    caption_lists: Annotated[bool, Later()] = Field(
        False, description="a cell may be a list of texts, each of which makes a row"
    )
    url_prefix: str = Field(
        "", description="what stands before every file name of the list to make it a URL; the name is percent-encoded"
    )
    serve: LocalPath | None = Field(
        None,
        description="a folder of pictures that is served over loopback HTTP while the step runs; the list then holds "
        "file names",
    )
    serve_port: Annotated[int, Field(ge=1, le=65_535)] = Field(
        8765, description="port at which the folder is served; part of the URLs in the tables"
    )

    @model_validator(mode="after")
    def _one_prefix(self) -> UrlList:
        if self.serve and self.url_prefix:
            raise ValueError("serve gives the URLs their prefix; leave url_prefix out")
        return self

    @property
    def name(self) -> str:
        """The dataset's name in the tables."""
        return self.dataset or _name_of(self.path)


class PictureSource(Section):
    """Pictures that are there already, which nothing is fetched for: shards, Parquet, a list of files, or a folder."""

    path: Annotated[InputPath, ListPath()] = Field(
        description="a file, a folder with all that is in it, or a pattern (`shards/*.tar`), of this machine or of a "
        "store (s3://, gs://)"
    )
    dataset: str | None = Field(None, description="name of the pictures in the tables; null: the file's or folder's")
    format: Literal["auto", "webdataset", "parquet", "list", "files"] = Field(
        "auto",
        description="webdataset: tar files; parquet: with a column of pictures; list: a list of file names with texts "
        "(TSV, CSV, JSON, Parquet; COCO's JSON); files: pictures with .txt and .json of the same name beside them; "
        "auto: told by what is there",
    )
    image_column: str | None = Field(
        None, description="column with the pictures, or with their file names; null: told by names and types"
    )
    caption_column: str | None = Field(
        None, description="column, or field of the JSON, with the text or a list of them; null: told by names"
    )
    image_root: InputPath | None = Field(
        None, description="folder in which the file names of a list begin; null: that of the list, or one in it"
    )

    @property
    def name(self) -> str:
        """The dataset's name in the tables."""
        return self.dataset or _name_of(self.path)


def _name_of(path: Path) -> str:
    """The file's name without its ending; of a pattern, that of the folder before it."""
    path = Path(str(path).partition("?")[0]) if root_text(path) != str(path) else path
    plain = next((part for part in reversed(path.parts) if not any(sign in part for sign in "*?[{")), path.name)
    return Path(plain).stem if plain == path.name else plain


class PictureRule(Section):
    """How a picture is stored, from the web or from an annotated set, and what decoding it may cost.

    An annotated set has download's values where it does not set its own.
    """

    image_size: Count = Field(256, description="size of the stored pictures, px; resize_mode says which side has it")
    resize_mode: Literal["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"] = Field(
        "keep_ratio",
        description="as in img2dataset: keep_ratio: the short side becomes image_size; keep_ratio_largest: the long "
        "side; center_crop: as keep_ratio, and a square is cut out; border: as keep_ratio_largest, in a white square; "
        "no: pictures keep their size",
    )
    resize_only_if_bigger: Annotated[bool, Later()] = Field(
        True, description="pictures are made smaller, never larger; false: as img2dataset does by default"
    )
    downscale_interpolation: Annotated[Interpolation, Later()] = Field(
        "area", description="how a picture is made smaller: an interpolation of OpenCV's, as in img2dataset"
    )
    upscale_interpolation: Annotated[Interpolation, Later()] = Field(
        "lanczos", description="how a picture is made larger, where resize_only_if_bigger is false"
    )
    jpeg_scaling: Annotated[bool, Later()] = Field(
        False,
        description="reduce a JPEG of twice the stored size or more while it is decoded, which is faster; its pixels "
        "are then not exactly img2dataset's",
    )
    encode_format: Annotated[Literal["jpg", "png", "webp"], Later()] = Field(
        "jpg", description="format of the stored pictures, in the column jpg"
    )
    encode_quality: Annotated[int, Field(ge=0, le=100)] = Field(
        95, description="JPEG or WebP quality of the stored pictures, 1..100; for png the compression, 0..9"
    )
    max_pixels: Count = Field(25_000_000, description="a picture of more pixels is not decoded")
    decode_timeout_s: Annotated[Positive, Later()] = Field(
        10.0, description="seconds of processor time that decoding a picture may take"
    )

    @model_validator(mode="after")
    def _quality_of_format(self) -> Self:
        least, most = (0, 9) if self.encode_format == "png" else (1, 100)
        if not least <= self.encode_quality <= most:
            raise ValueError(f"encode_quality: {self.encode_quality} is not {least} to {most} (encode_format)")
        return self


class AnnotatedSet(PictureRule):
    """Pictures with captions that people wrote, as JSON or Parquet: the paper's COCO."""

    path: LocalPath = Field(description="the list of pictures and captions")
    image_column: str = Field("image", description="column with file names, relative to image_root")
    captions_column: str = Field("captions", description="column with a list of texts, or one text")
    domain_column: str = Field(
        "domain", description="column that says in, near or out, as nocaps does; it may be missing"
    )
    image_root: LocalPath | None = Field(None, description="folder of the pictures; null: the folder of the list")
    sample: Annotated[Count | None, Later()] = Field(
        None, description="use so many rows of the list, drawn by sample_seed; null: all"
    )
    sample_seed: Annotated[int, Later()] = Field(
        0, description="seed of the rows that are drawn; the human set's is the run's seed, where it is not set"
    )
    max_text_chars: Annotated[Count, Later()] = Field(10_000, description="a caption of more characters is left out")
    max_failed_share: Annotated[AlarmShare, Speed()] = Field(
        1.0, description="raise an alarm where this share of the rows or more cannot be used"
    )
    rows_per_shard: ShardRows = Field(10_000, description="pictures in each Parquet file")


SameKind = Literal["held_out_in_human", "held_out_in_web", "human_in_web"]


class SamePicturesConfig(Section):
    """Pictures that are in two sets at once, by their bytes: they are listed, and may be left out of training."""

    leave_out: tuple[SameKind, ...] = Field(
        ("held_out_in_human", "held_out_in_web", "human_in_web"),
        description="pictures that are not trained on: held-out ones in the human set or in the web's, human ones in "
        "the web's",
    )


class FindSamePicturesConfig(SamePicturesConfig):
    """The settings on which the list of such pictures depends; those of pictures that look alike where it has them."""

    near_radius: Annotated[int | None, Later()] = None
    least_quality: Annotated[int, Later()] = 50


class DownloadConfig(PictureRule):
    """Fetching and resizing the web's images, by img2dataset's functions and words."""

    urls: Annotated[tuple[UrlList, ...], Grows()] = Field((), description="the lists of URLs")
    pictures: Annotated[tuple[PictureSource, ...], Grows(), Later()] = Field(
        (), description="pictures that are there already; they become rows of `images` before those of the lists"
    )
    limit: Annotated[Count | None, Grows()] = Field(
        None, description="use only the first rows of each list, of URLs or pictures; null: all"
    )
    min_image_size: NonNegative = Field(
        0, description="a picture whose short side has fewer px is dropped (error class too_small)"
    )
    max_aspect_ratio: Annotated[float, Field(ge=1)] = Field(
        20.0,
        description="a picture whose long side is more than this many times its short side is dropped (error class "
        "aspect_ratio); .inf: none is",
    )
    timeout_s: Annotated[Positive, CountsAs(10.0)] = Field(
        10.0, description="seconds for one try of one URL, redirects and body included"
    )
    num_retries: Annotated[NonNegative, CountsAs(1)] = Field(
        1, description="further tries after a time-out, a broken connection, or HTTP 5xx or 429"
    )
    num_threads: Annotated[Count, Speed()] = Field(32, description="parallel fetches of each Ray task")
    max_bytes: Count = Field(
        50_000_000, description="an answer of more bytes is not read to its end (error class too_many_bytes)"
    )
    verify_digests: Annotated[bool, Later()] = Field(
        True,
        description="where a list has a column sha256 or md5, a picture of other bytes is not stored (error class "
        "wrong_digest)",
    )
    max_text_chars: Annotated[Count, Later()] = Field(
        10_000, description="an alt text of more characters is stored cut, and becomes no pair (reason text_too_long)"
    )
    allow_private_addresses: bool = Field(False, description="fetch from loopback and private networks too")
    honour_noai: bool = Field(True, description="refuse images whose X-Robots-Tag says noai or noimageai")
    honour_noindex: Annotated[bool, Later()] = Field(
        False, description="refuse images whose X-Robots-Tag says noindex, noimageindex or none"
    )
    robots: Annotated[Respect, Later()] = Field(
        "obey",
        description="robots.txt of each host. obey: what it disallows is not fetched (error class robots_txt); record: "
        "the column robots_txt has what it says; ignore: it is not asked for",
    )
    tdm_reservation: Annotated[Respect, Later()] = Field(
        "obey",
        description="reservations of text and data mining, by TDM-Reservation headers and /.well-known/tdmrep.json. "
        "obey: what is reserved is refused (error class disallowed); record: the column tdm_reservation has them; "
        "ignore: the file is not asked for",
    )
    content_usage: Annotated[Respect, Later()] = Field(
        "obey",
        description="train-ai=n by Content-Usage headers, and in robots.txt where that is asked for. obey: it is "
        "refused (error class disallowed); record and ignore: the column content_usage has it",
    )
    host_connections: Annotated[int, Field(ge=1, le=1_000), Speed()] = Field(
        8, description="connections to one host at a time, of all workers of a machine together"
    )
    host_requests_per_s: Annotated[Annotated[float, Field(gt=0)] | None, Speed()] = Field(
        None,
        description="requests to one host in a second, of all workers together; null: 30 to public hosts, as many as "
        "go to private ones; .inf: as many as go",
    )
    host_failures: Annotated[Count, Speed()] = Field(
        25, description="a host that fails so often in a row rests; its rows get the error class host_rests at last"
    )
    host_rest_s: Annotated[Positive, Speed()] = Field(300.0, description="seconds for which such a host rests")
    host_pause_s: Annotated[Positive, Speed()] = Field(
        60.0,
        description="the longest Retry-After that is waited for, s; a host that asks for more rests for as long",
    )
    max_crawl_delay_s: Annotated[Annotated[float, Field(ge=0)], Speed()] = Field(
        10.0, description="the longest Crawl-delay of a robots.txt that is kept, s; a longer one counts as this"
    )
    host_patience_s: Annotated[Positive, Speed()] = Field(
        3_600.0,
        description="seconds that a worker waits in one part for slow hosts alone; then their rows get the error class "
        "host_rests",
    )
    use_proxies: Annotated[bool, Speed()] = Field(
        True,
        description="go through the environment's http_proxy, https_proxy and all_proxy, except to no_proxy's hosts",
    )
    user_agent: Annotated[HeaderText, CountsAs(FIRST_AGENT)] = Field(
        AGENT, description="User-Agent header, by which servers know the fetcher", min_length=1
    )
    contact: Annotated[HeaderText, Speed()] = Field(
        "", description="a page or mail address in the user agent, for those who run the servers"
    )
    max_failed_share: Annotated[AlarmShare, Speed()] = Field(
        1.0, description="raise an alarm where this share of the URLs or more gave no picture"
    )
    rows_per_shard: Annotated[ShardRows, Grows()] = Field(10_000, description="rows in each Parquet file")

    @field_validator("pictures")
    @classmethod
    def _one_name_each(cls, found: tuple[PictureSource, ...]) -> tuple[PictureSource, ...]:
        names = [one.name for one in found]
        if twice := next((one for one in names if names.count(one) > 1), None):
            raise ValueError(f"two entries are called {twice}; give each a dataset of its own")
        return found

    @model_validator(mode="after")
    def _leaves_pictures(self) -> Self:
        if self.min_image_size**2 > self.max_pixels:
            raise ValueError(
                f"a picture of min_image_size {self.min_image_size} has more than max_pixels {self.max_pixels} pixels, "
                "so that every picture is refused; lower the one, or raise the other"
            )
        return self

    @property
    def agent(self) -> str:
        """The User-Agent header: `user_agent`, the contact in its comment or as one."""
        if not self.contact:
            return self.user_agent
        contact = self.contact if self.contact.startswith("+") else f"+{self.contact}"
        if self.user_agent.endswith(")"):
            return f"{self.user_agent[:-1]}; {contact})"
        return f"{self.user_agent} ({contact})"
