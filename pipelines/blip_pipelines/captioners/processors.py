"""The processor of a checkpoint of transformers, by which pictures and prompts become a model's inputs."""

from __future__ import annotations

import inspect
from logging import ERROR
from typing import Any

from blip_bootstrap.errors import CheckpointError


class _NoVideos:
    """Stands for a video processor, which needs torchvision; pictures need none."""

    merge_size = temporal_patch_size = num_frames = fps = 1


def load_processor(source: str) -> Any:
    """The processor in a folder. Raises CheckpointError where there is none.

    Pictures are resized by Pillow, whether torchvision is there or not: its pixels differ.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer  # start-up: where texts are written alone
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING  # start-up: as above
    from transformers.utils import logging  # start-up: as above

    before = logging.get_verbosity()
    logging.set_verbosity(ERROR)  # it tells that torchvision lacks, for each class that has a Pillow form
    try:
        kind: Any = PROCESSOR_MAPPING[type(AutoConfig.from_pretrained(source))]
        settings, _ = kind.get_processor_dict(source)
        parts: dict[str, Any] = {"tokenizer": AutoTokenizer.from_pretrained(source)}
        image_processor: Any = AutoImageProcessor
        parts["image_processor"] = image_processor.from_pretrained(source, backend="pil")
        return _made_of(kind, parts, settings)
    except (OSError, ValueError, ImportError, RuntimeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{source}: no processor ({' '.join(str(error).split())[:300]})") from error
    finally:
        logging.set_verbosity(before)


def _made_of(kind: Any, parts: dict[str, Any], settings: dict[str, Any]) -> Any:
    """A processor of the class `kind`, with the parts that it has; where one is for videos, a stand-in."""
    known = inspect.signature(kind.__init__).parameters
    if lacking := set(kind.get_attributes()) - {*parts, "video_processor"}:
        raise ValueError(f"{kind.__name__} needs a {sorted(lacking)[0]}, which is not supported")
    given = {name: value for name, value in settings.items() if name in known and name not in ("self", "kwargs")}
    template = settings.get("chat_template") or getattr(parts["tokenizer"], "chat_template", None)
    if "video_processor" in kind.get_attributes():
        parts = {**parts, "video_processor": _NoVideos()}
        kind = _without_videos(kind)
    made = kind(**{**given, **parts})
    if template and not getattr(made, "chat_template", None):
        made.chat_template = template
    return made


def _without_videos(kind: Any) -> Any:
    """The class with any object for a video processor."""

    def check(self: Any, name: str, argument: Any) -> Any:
        return None if name == "video_processor" else kind.check_argument_for_proper_class(self, name, argument)

    return type(kind.__name__, (kind,), {"check_argument_for_proper_class": check, "__init__": kind.__init__})
