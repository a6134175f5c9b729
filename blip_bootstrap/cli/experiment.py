"""`blip-bootstrap experiment`: arms by seeds, their figures with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import typer
from typer.core import TyperCommand

from blip_bootstrap.cli.options import GOES_ON, Settings, say
from blip_bootstrap.ending import ended_early
from blip_bootstrap.errors import ConfigError, RunFailed
from blip_bootstrap.experiment.file import SPLITS, Experiment, read_experiment, shipped
from blip_bootstrap.experiment.mistakes import unknown
from blip_bootstrap.experiment.page import write_page
from blip_bootstrap.experiment.plan import Job
from blip_bootstrap.experiment.results import (
    arms_table,
    check_place,
    differences,
    differences_table,
    unknown_figures,
    write_list,
    write_results,
)
from blip_bootstrap.experiment.run import Finished, run_experiment
from blip_bootstrap.paths import path_argument
from blip_bootstrap.query.formats import print_by, print_columns, print_table

commands = typer.Typer(rich_markup_mode="markdown")

MANY = ("--seeds", "--arms")
"""Options that take several values: `--seeds 0 1 2`."""


class ManyValues(TyperCommand):
    """A command in which the options of `MANY` take all values up to the next option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Each value gets its option in front of it, as click wants it."""
        option, spread = "", list[str]()
        for one, after in zip(args, [*args[1:], "--"], strict=True):
            if one in MANY and _is_option(after):
                raise typer.BadParameter("a value is needed, or several, with spaces between", ctx, param_hint=one)
            if _is_option(one):
                option = one if one in MANY else ""
                spread += [] if option else [one]
            else:
                spread += [option, one] if option else [one]
        return super().parse_args(ctx, spread)


def _is_option(word: str) -> bool:
    return word.startswith("-") and not word[1:].isdigit()


@commands.command(cls=ManyValues, epilog="Example: `blip-bootstrap experiment table1 --seeds 0 1 2 --parallel 2`")
def experiment(
    file: Annotated[
        str | None, typer.Argument(metavar="FILE|NAME", help="A YAML file, or the name of a shipped experiment.")
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            "--root",
            parser=path_argument,
            metavar="PATH",
            help="Folder of the runs, shared by experiments over one world. Default: runs/experiments, for a world in "
            "files with its name.",
        ),
    ] = None,
    seeds: Annotated[
        list[int] | None, typer.Option("--seeds", min=0, max=2**63 - 1, help="Seeds. Default: those of the file.")
    ] = None,
    arms: Annotated[
        list[str] | None,
        typer.Option("--arms", help="Arms, and what they need. Default: all."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", help="validation, to choose settings on, or held_out, to report. Default: the file's."),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option("--results", parser=path_argument, metavar="PATH", help="Write arm, seed, metric, value as JSON."),
    ] = None,
    settings: Settings = None,
    parallel: Annotated[
        int, typer.Option("--parallel", min=1, help="Seeds side by side, each in a process with a log of its own.")
    ] = 1,
    ray: Annotated[
        str | None,
        typer.Option("--ray", help="Where steps run, as for run. Default: the file's; with --parallel none."),
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the shipped experiments.")] = False,
) -> None:
    """Run arms over seeds with one budget, sharing what they share; tells means, and differences with intervals."""
    if listed or file is None:
        _list()
        return
    asked = read_experiment(file)
    _check(asked, arms, split)
    if results:
        check_place(results)
    if split:
        asked = asked.model_copy(update={"split": split})
    at = root or _default_root(asked)
    job = Job(asked, at, tuple(settings or ()), ray or ("none" if parallel > 1 else None))
    chosen = tuple(dict.fromkeys(seeds)) if seeds else asked.seeds
    with ended_early(GOES_ON):
        finished = run_experiment(job, chosen, tuple(dict.fromkeys(arms or asked.arms)), asked.split, parallel, say)
        _tell(job, finished, results)
    if finished.failed:
        raise RunFailed("\n".join(f"seed {one.seed}, arm {one.arm}: {one.text}" for one in finished.failed))


def _tell(job: Job, finished: Finished, results: Path | None) -> None:
    """Print and write what was found."""
    asked, root = job.experiment, job.root
    if not finished.records:
        return
    table = write_results(root, job)
    if results:
        write_list(results, asked, finished.records)
    page = write_page(root, asked, finished)
    typer.echo(asked.question)
    print_columns(arms_table(asked, finished.records))
    if found := list(differences(asked, finished.records)):
        print_by(differences_table(found), "metric")
    for line in unknown_figures(asked, finished.records):
        typer.echo(line)
    if finished.stopped:
        typer.echo(finished.stopped.told)
    typer.echo(f"results: {table}\npage: {page}")


def _check(asked: Experiment, arms: list[str] | None, split: str | None) -> None:
    mistakes = [f"--arms {one}: no such arm; {unknown(one, asked.arms)}" for one in arms or () if one not in asked.arms]
    if split and split not in SPLITS:
        mistakes.append(f"--split {split}: is one of {', '.join(SPLITS)}")
    if mistakes:
        raise ConfigError(mistakes)


def _default_root(asked: Experiment) -> Path:
    return Path("runs") / ("experiments" if asked.is_builtin else f"experiments-{Path(asked.world).stem}")


def _list() -> None:
    rows: list[dict[str, Any]] = []
    for name in shipped():
        one = read_experiment(name)
        rows.append({"name": name, "arms": len(one.arms), "seeds": len(one.seeds), "question": one.question})
    print_table(pa.Table.from_pylist(rows))
