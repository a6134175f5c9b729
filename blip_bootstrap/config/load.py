"""The configuration from YAML and `--set a.b=c`, every mistake listed at once; and back to YAML."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from blip_bootstrap.config.tree import Config
from blip_bootstrap.errors import ConfigError, InputError
from blip_bootstrap.settings.mistakes import in_words
from blip_bootstrap.settings.section import Section
from blip_bootstrap.settings.yaml_text import parse_yaml

OF_A_ROUND = re.compile(r"^rounds\.[^.:]+\.")


def load_config(path: Path | None = None, settings: Sequence[str] = (), **overrides: Any) -> Config:
    """The configuration from a YAML file, then `settings` ("a.b=c", values as YAML), then overrides (`a__b=c`, values).

    Relative paths in the file are relative to the working directory, as on a command line.
    Raises ConfigError with one line for each mistake, InputError where the file cannot be read.
    """
    return config_of(read_yaml(path) if path else {}, settings, **overrides)


def config_of(given: Mapping[str, Any], settings: Sequence[str] = (), **overrides: Any) -> Config:
    """The configuration from what a YAML file holds, as `load_config` makes it of the file. Raises ConfigError."""
    data: dict[str, Any] = copy.deepcopy(dict(given))
    mistakes = [m for setting in settings if (m := _apply(data, setting))]
    for name, value in overrides.items():
        if value is not None:
            _put(data, name.split("__"), value)
    config, more = _validate(data)
    mistakes += more
    if mistakes or config is None:
        raise ConfigError(mistakes)
    return config


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds, an empty one of an empty file. Raises InputError."""
    try:
        data = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise InputError(f"{path}: a mapping of sections was expected, found {type(data).__name__}")
    return data


def _apply(data: dict[str, Any], setting: str) -> str | None:
    """Set one `a.b=c` in `data`; returns the mistake in words, or None."""
    name, equals, value = setting.partition("=")
    if not equals or not name:
        return f"--set {setting}: expected section.key=value"
    try:
        parsed = parse_yaml(value) if value else None
    except ValueError:
        parsed = value
    mistake = _put(data, name.split("."), parsed)
    return f"--set {setting}: {mistake}" if mistake else None


def _put(data: dict[str, Any], names: Sequence[str], value: Any) -> str | None:
    """Set the value at a path of names in nested `data`; returns the mistake in words, or None."""
    *parents, leaf = names
    node: Any = data
    for parent in parents:
        if isinstance(node, list):
            if not parent.isdigit() or int(parent) >= len(node):
                return f"{'.'.join(names)} has {len(node)} entries, 0 to {len(node) - 1}; there is no {parent}"
            node = node[int(parent)]
            continue
        parent = _as_there(node, parent)
        child = node.get(parent)
        node[parent] = node = child if isinstance(child, dict | list) else {}
    if not isinstance(node, dict):
        return "it names no single setting; give one of an entry, as download.urls.0.path=FILE"
    node[leaf] = value
    return None


def _as_there(node: Mapping[Any, Any], name: str) -> Any:
    """A name as a mapping has it: YAML reads the key `2` as a number."""
    return int(name) if name.isdigit() and int(name) in node else name


def _validate(data: dict[str, Any]) -> tuple[Config | None, list[str]]:
    try:
        return Config.model_validate(data), []
    except ValidationError as error:
        found = list(dict.fromkeys(_mistake(dict(item)) for item in error.errors()))
        # A round's own settings are laid over those of all, whose mistakes count once.
        return None, [one for one in found if not OF_A_ROUND.match(one) or OF_A_ROUND.sub("", one) not in found]


def _mistake(item: dict[str, Any]) -> str:
    """One pydantic error as one line: with a guess where a key is unknown, else with what to write."""
    where = ".".join(str(part) for part in item["loc"]) or item.get("ctx", {}).get("where", "config")
    if item["type"] == "extra_forbidden":
        known = list(_fields_at(item["loc"][:-1]))
        close = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known keys: {', '.join(sorted(known))}"
        section, dot, rest = str(item["loc"][-1]).partition(".")
        if dot and section in known:
            hint = f"a dot is for --set; in the file write {section}: {{{rest}: ...}}"
        return f"{where}: unknown key; {hint}"
    return f"{where}: {in_words(item)}"


def _fields_at(loc: tuple[Any, ...]) -> Mapping[str, Any]:
    """The fields of the section at `loc`."""
    model: type[BaseModel] = Config
    for name in loc:
        if isinstance(name, int) or str(name).isdigit():  # an entry of a list, a round
            continue
        field = model.model_fields.get(str(name))
        section = _section_type(field.annotation) if field else None
        if section is None:
            return {}
        model = section
    return model.model_fields


def _section_type(annotation: Any) -> type[BaseModel] | None:
    """The section class inside an annotation such as `AnnotatedSet | None` or `tuple[UrlList, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) is not None:
        for inner in get_args(annotation):
            found = _section_type(inner)
            if found:
                return found
    return None


def dump_yaml(config: Section) -> str:
    """The resolved configuration as YAML, with every default written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
