"""Models of the Hugging Face hub: whether one is in its cache, and fetching one."""

from __future__ import annotations

from pathlib import Path

from httpx import HTTPError
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from blip_bootstrap.errors import CheckpointError

PATTERNS = ("*.json", "*.safetensors", "vocab.txt", "merges.txt")

PICKLED_PATTERN = "pytorch_model*.bin"
"""Fetched only if a model has no safetensors, which would hold equal weights."""


def needs_no_network(name: str) -> bool:
    """Whether a model is in the cache, or its name is none that the hub could have."""
    try:
        snapshot_download(name, local_files_only=True)
    except LocalEntryNotFoundError:
        return False
    except HFValidationError:
        return True
    return True


def fetch(name: str) -> Path:
    """The folder of a model in the cache, fetched if need be. Raises CheckpointError if the hub does not give it."""
    try:
        folder = Path(snapshot_download(name, allow_patterns=list(PATTERNS)))
        if (folder / "config.json").is_file() and not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(name, allow_patterns=[*PATTERNS, PICKLED_PATTERN]))
        return folder
    except (HTTPError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        why = str(error).splitlines()[0]
        raise CheckpointError(f"{name}: neither a file, a folder nor a model the hub gives ({why})") from error
