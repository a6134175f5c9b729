"""What the figures (metrics.json) and the page at the end of a round cost."""

from __future__ import annotations

import re
import statistics
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from blip_bootstrap.config import Config
from blip_bootstrap.html.gallery import GALLERIES
from blip_bootstrap.planning.cost import Cost
from blip_bootstrap.report.figures import write_figures
from blip_bootstrap.report.round_page import write_report
from blip_bootstrap.schemas.tables import CAPTIONS, IMAGES
from blip_bootstrap.select.pairs import select_pairs
from blip_bootstrap.storage.parquet import rows_to_table, write_parquet
from blip_bootstrap.storage.run_folder import round_folder
from blip_pipelines.cluster.resources import peak_bytes

PICTURE = re.compile(rb"<img[^>]*>")


def measure_report(config: Config, images: pa.Table, captions: list[dict[str, Any]], root: Path) -> Cost:
    """The cost of metrics.json and report.html, made for a round over the sample.

    Pictures are most of the page. How many texts its galleries have to show is up to the models; all are planned full.
    """
    at = round_folder(root, 1)
    write_parquet(root / "images" / "part-00000.parquet", images, IMAGES)
    write_parquet(at / "captions" / "part-00000.parquet", rows_to_table(captions, CAPTIONS), CAPTIONS)
    (at / "pairs").mkdir()
    select_pairs(at / "pairs", at / "captions", config=config.select)
    started = time.perf_counter()
    figures, page = write_figures(root, 1), write_report(root, 1, config.report)
    seconds = time.perf_counter() - started
    size_bytes = figures.stat().st_size + page.stat().st_size
    return Cost(
        "report", 0, 0, 0.0, "CPU",
        fixed_s=seconds,
        fixed_bytes=size_bytes + _more_picture_bytes(page, config.report.num_gallery, len(images)),
        worker_bytes=peak_bytes(),
        scales=False,
    )  # fmt: skip


def _more_picture_bytes(page: Path, num_gallery: int, num_images: int) -> int:
    """Bytes that the page would take more if every gallery were full."""
    sizes = [len(picture) for picture in PICTURE.findall(page.read_bytes())]
    missing = len(GALLERIES) * min(num_gallery, num_images) - len(sizes)
    return round(missing * statistics.mean(sizes)) if sizes and missing > 0 else 0
