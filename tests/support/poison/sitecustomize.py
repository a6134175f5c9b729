"""With this folder in PYTHONPATH, every Python process is poisoned by URLs and pictures that say so (acts.py)."""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from tests.support.poison.acts import act

PLACES = {"blip_pipelines.fetch.fetch": "try_once", "blip_training.data.decode": "decode_image"}
"""The functions that see a row first, in a process of the step: the URL, or the picture's bytes, comes first."""


class Poisoning(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name not in PLACES:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        assert spec is not None
        assert spec.loader is not None
        run = spec.loader.exec_module

        def run_and_poison(module: ModuleType) -> None:
            run(module)
            poison(module, PLACES[name])

        spec.loader.exec_module = run_and_poison  # type: ignore[method-assign]
        return spec


def poison(module: ModuleType, name: str) -> None:
    real = getattr(module, name)

    def poisoned(first: Any, *others: Any, **known: Any) -> Any:
        act(first if isinstance(first, str) else first[:40].decode("latin-1"))
        return real(first, *others, **known)

    setattr(module, name, poisoned)


sys.meta_path.insert(0, Poisoning())
