"""Which run, and which round of it, a command asks about."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blip_bootstrap.errors import InputError
from blip_bootstrap.paths import run_argument
from blip_bootstrap.storage.remote import opened

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


def run_folder(root: Path | None, of_experiments: bool = False) -> Path:
    """The folder of the run to ask: the given one (s3:// and gs://, too), else runs/default, else runs/demo.

    Raises InputError for the root of experiments, unless `of_experiments`: a run lies in each folder of a seed there.
    """
    if root:
        folder = opened(root)
        seed = next(iter(sorted(one.parent for one in folder.glob("seed-*/config.yaml"))), None)
        if seed and not of_experiments and not (folder / "config.yaml").is_file():
            raise InputError(f"{root}: holds experiments, a run for each seed; name one of the runs, as {seed}")
        return folder
    return next((path for path in (Path("runs/default"), Path("runs/demo")) if path.is_dir()), Path("runs/default"))
