"""What several commands share: their options, the configuration and the run that these name, and lines of progress.

The commands import what they call inside their bodies: `--help` answers in a fifth of a second that way, and would
take one with DuckDB and pyarrow, and several with torch and Ray.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blip_bootstrap.paths import path_argument, run_argument

if TYPE_CHECKING:
    from blip_bootstrap.config import Config

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
        parser=path_argument,
        metavar="PATH",
        help="Folder of the run. Default: `root` of the configuration, which is runs/default.",
    ),
]

Root = Annotated[
    Path | None,
    typer.Option(
        "--root",
        parser=run_argument,
        metavar="PATH",
        help="Folder of the run, or s3:// or gs://. Default: runs/default, else runs/demo.",
    ),
]

RoundNumber = Annotated[int | None, typer.Option("--round", min=0, help="Which round. Default: the last one made.")]

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

RayAddress = Annotated[
    str | None,
    typer.Option("--ray", help="Where steps run: local, auto, HOST:PORT of a Ray cluster, or none (without Ray)."),
]

GOES_ON = "the same command goes on from here"


def load(
    path: Path | None, root: Path | None, settings: list[str] | None, ray: str | None = None, limit: int | None = None
) -> Config:
    """The configuration: the file, changed by `--set`, and by the options that have a name. Raises ConfigError."""
    from blip_bootstrap.config import load_config

    return load_config(path, settings or [], root=root, ray__address=ray, download__limit=limit)


def run_folder(root: Path | None) -> Path:
    """The folder of the run to ask: the given one (s3:// and gs://, too), else runs/default, else runs/demo."""
    if root:
        from blip_bootstrap.storage.remote import opened

        return opened(root)
    return next((path for path in (Path("runs/default"), Path("runs/demo")) if path.is_dir()), Path("runs/default"))


def say(line: str) -> None:
    """Print one line of progress, on standard error."""
    typer.echo(line, err=True)
