"""What several commands share: their options, the configuration that these name, and lines of progress."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blip_bootstrap.config import Config, load_config
from blip_bootstrap.paths import path_argument, run_argument

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", parser=path_argument, metavar="PATH", help="YAML file; `config show` prints every setting."
    ),
]

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="One setting, as `select.itm_threshold=0.6`, in place of the file's; may be repeated."),
]

NewRoot = Annotated[
    Path | None,
    typer.Option(
        "--root",
        parser=run_argument,
        metavar="PATH",
        help="Folder of the run, or s3:// or gs://. Default: `root` of the configuration, which is runs/default.",
    ),
]

LastRound = Annotated[
    int, typer.Option("--round", min=0, help="The last round to make; earlier ones that it needs come first.")
]

Remake = Annotated[
    list[int] | None,
    typer.Option(
        "--remake",
        min=0,
        help="Make this earlier round anew by the settings, which else stays as it was made; may be repeated.",
    ),
]

BreakLock = Annotated[
    bool,
    typer.Option("--break-lock", help="Take the lock of a run on a store from a process that is gone for sure."),
]

Retry = Annotated[
    str | None,
    typer.Option(
        "--retry",
        metavar="failed[:CLASS]|captions[:REASON]",
        help="Fetch rows of the URL lists again that have failed, all or those of one error class, as failed:timeout; "
        "or ask captioners (caption.writers) again for texts that they did not write; the others stay.",
    ),
]

RayAddress = Annotated[
    str | None,
    typer.Option("--ray", help="Where steps run: local, auto, HOST:PORT of a Ray cluster, or none (without Ray)."),
]

GOES_ON = "the same command goes on from here"


def load(
    path: Path | None, root: Path | None, settings: list[str] | None, ray: str | None = None, limit: int | None = None
) -> Config:
    """The configuration: the file, changed by `--set`, and by the options that have a name; `root` is where the run
    can be worked on. Raises ConfigError, and InputError where a store refuses.
    """
    config = load_config(path, settings or [], root=root, ray__address=ray, download__limit=limit)
    if ":" not in str(config.root):  # a folder
        return config
    from blip_bootstrap.loop.layout import at_hand  # start-up: pyarrow, for runs on stores alone

    return at_hand(config)


def say(line: str) -> None:
    """Print one line of progress, on standard error."""
    from blip_bootstrap.stores.store import shown  # start-up: pyarrow, for what makes something

    typer.echo(shown(line), err=True)
