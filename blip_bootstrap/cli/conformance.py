"""`blip-bootstrap conformance`: whether a captioner or judge keeps what it promises."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any, Literal

import typer

from blip_bootstrap.cli.artifacts import print_rows
from blip_bootstrap.cli.options import ConfigFile, Settings, load
from blip_bootstrap.config import JudgeConfig, WriterConfig
from blip_bootstrap.errors import InputError
from blip_bootstrap.settings.yaml_text import parse_yaml
from blip_pipelines.captioners.conformance import FAILED, PROMPTS, check_captioner
from blip_pipelines.captioners.registry import KINDS as CAPTIONERS
from blip_pipelines.judges.conformance import check_judge
from blip_pipelines.judges.registry import KINDS as JUDGES

commands = typer.Typer(rich_markup_mode="markdown")


@commands.command(epilog="Example: `blip-bootstrap conformance transformers --option checkpoint=OWNER/NAME`")
def conformance(
    name: Annotated[
        str,
        typer.Argument(help="A kind of captioner or judge, or the name of one in caption.writers or caption.judges."),
    ],
    config: ConfigFile = None,
    settings: Settings = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="An option of the kind, as `max_tokens=40`; may be repeated.")
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", help="What a captioner is asked, in place of the usual; may be repeated."),
    ] = None,
    device: Annotated[Literal["cpu", "cuda"], typer.Option("--device", help="Where it is loaded.")] = "cpu",
    dtype: Annotated[
        Literal["float32", "bfloat16"], typer.Option("--dtype", help="Number format of its weights.")
    ] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of the table.")] = False,
) -> None:
    """Check a captioner or judge on drawn pictures: the same at any batch size, order, process, kill, as it promises.

    It is loaded twice. Exit code 1 where a check does not pass.
    """
    caption = load(config, None, settings).caption
    plugged_in: dict[str, JudgeConfig | WriterConfig] = {one.name: one for one in caption.judges}
    plugged_in |= {one.name: one for one in caption.writers}
    given = dict(plugged_in[name].options) if name in plugged_in else {}
    given |= dict(_parsed(one) for one in option or [])
    kind = plugged_in[name].kind if name in plugged_in else name
    if kind in JUDGES.known() and kind not in CAPTIONERS.known():
        found = check_judge(kind, given, device=device, dtype=dtype)
    else:
        found = check_captioner(kind, given, prompts=prompt or PROMPTS, device=device, dtype=dtype)
    if as_json:
        typer.echo(json.dumps({"kind": kind, "checks": [asdict(one) for one in found]}))
    else:
        print_rows(("check", "outcome", "what was seen"), [(one.check, one.outcome, one.told) for one in found])
    raise typer.Exit(int(any(one.outcome == FAILED for one in found)))


def _parsed(option: str) -> tuple[str, Any]:
    name, equals, value = option.partition("=")
    if not equals or not name:
        raise InputError(f"--option {option}: expected name=value")
    try:
        return name, parse_yaml(value)
    except ValueError:
        return name, value
