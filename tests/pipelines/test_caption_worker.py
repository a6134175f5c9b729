from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from blip_pipelines.caption_worker import CaptionWorker, seed_of
from conftest import save_tiny, write_images

from blip_bootstrap.config import CaptionConfig
from blip_bootstrap.errors import CheckpointError, RunFailed
from blip_bootstrap.tables import CAPTIONS, IMAGES, read_parquet
