"""Models of the Hugging Face hub: whether one is in its cache, which commit of it a run loads, and fetching one."""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from blip_bootstrap.errors import CheckpointError
from blip_training.runtime.commits import pin, pinned

PATTERNS = ("*.json", "*.safetensors", "vocab.txt", "merges.txt", "*.jinja", "*.model")
"""The last two are chat templates, and tokenizers of sentence pieces."""

PICKLED_PATTERN = "pytorch_model*.bin"
"""Fetched only if a model has no safetensors, which would hold equal weights."""

HTTPError: type[Exception] = next(
    kind for kind in HfHubHTTPError.__mro__ if issubclass(kind, Exception) and kind.__name__ == "HTTPError"
)
"""What the HTTP client raises where there is no network: httpx's, or since huggingface_hub 2.4 that of httpx2."""

ANSWER_S = 10.0
"""How long the hub may take to say which commit is the newest; then it is the one in the cache."""


def needs_no_network(name: str) -> bool:
    """Whether a model is in the cache, or its name is none that the hub could have."""
    try:
        snapshot_download(name, revision=pinned().get(name), local_files_only=True)
    except LocalEntryNotFoundError:
        return False
    except HFValidationError:
        return True
    return True


def fetch(name: str, revision: str | None = None) -> Path:
    """The folder of a model in the cache, fetched if need be. Raises CheckpointError if the hub does not give it.

    The first time it is the newest commit, from then on this one, here and in the workers of this process; or that of
    `revision`, a commit, tag or branch. One process of a machine fetches it at a time, and the others find it there.
    """
    try:
        with _alone(name):
            commit = revision or pinned().get(name) or _newest(name)
            folder = _snapshot(name, commit)
        if commit and not revision:
            pin({name: commit})
        return folder
    except (HTTPError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        at = f" at commit {pinned()[name][:12]}, with which this run began," if name in pinned() else ""
        why = str(error).splitlines()[0]
        raise CheckpointError(f"{name}:{at} neither a file, a folder nor a model the hub gives ({why})") from error


def _newest(name: str) -> str | None:
    """The commit that the name stands for: what the hub says, or where it cannot be asked, the cache."""
    if not constants.is_offline_mode():
        try:
            return HfApi().model_info(name, timeout=ANSWER_S).sha
        except (HTTPError, HfHubHTTPError, OSError):
            pass  # what is in the cache may do
    try:
        found = (_cached(name) / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return found if re.fullmatch("[0-9a-f]{40}", found) else None


def _snapshot(name: str, commit: str | None) -> Path:
    whole = _beside(f"{name}--{commit}.whole")
    if commit and whole.is_file() and (_cached(name) / "snapshots" / commit).is_dir():
        return Path(snapshot_download(name, revision=commit, local_files_only=True))  # asks the hub nothing
    folder = Path(snapshot_download(name, revision=commit, allow_patterns=list(PATTERNS)))
    if (folder / "config.json").is_file() and not any(folder.glob("*.safetensors")):
        folder = Path(snapshot_download(name, revision=commit, allow_patterns=[*PATTERNS, PICKLED_PATTERN]))
    if commit and whole.parent.is_dir() and not constants.is_offline_mode():
        whole.touch()
    return folder


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """One process of this machine at a time; where the cache cannot be written, all, since none fetches anything."""
    lock = _beside(f"{name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("ab")
    except OSError:
        yield
        return
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _cached(name: str) -> Path:
    return Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"


def _beside(name: str) -> Path:
    """A file of ours in the cache, beside the hub's own locks."""
    return Path(constants.HF_HUB_CACHE) / ".locks" / "blip-bootstrap" / name.replace("/", "--")
