"""The command `forget`: rows of the lists taken out of a run for good, with all that it has of them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from blip_bootstrap.audit.open_run import OpenRun
from blip_bootstrap.cli.artifacts import told_size
from blip_bootstrap.cli.asked_run import Root, run_folder
from blip_bootstrap.cli.options import BreakLock, say
from blip_bootstrap.config import load_config
from blip_bootstrap.errors import BlipBootstrapError, InputError
from blip_bootstrap.loop.adopt import adopt
from blip_bootstrap.paths import path_argument
from blip_bootstrap.report.figures import write_figures
from blip_bootstrap.report.overview_page import write_overview
from blip_bootstrap.report.round_page import write_report
from blip_bootstrap.storage.lock import break_lock, locked
from blip_bootstrap.storage.run_folder import check_run, round_name
from blip_bootstrap.stores.store import shown
from blip_bootstrap.withdrawal.asked import asked
from blip_bootstrap.withdrawal.forget import begin, end, is_begun, plan_withdrawal
from blip_bootstrap.withdrawal.plan import Plan

commands = typer.Typer(rich_markup_mode="markdown")

Urls = Annotated[list[str] | None, typer.Option("--url", help="A URL, as its list has it; may be repeated.")]
Domains = Annotated[
    list[str] | None,
    typer.Option("--domain", help="A registered domain or a host, with all hosts below it; may be repeated."),
]
Digests = Annotated[
    list[str] | None,
    typer.Option("--sha256", help="The sha256 of a picture's bytes as fetched, under any URL; may be repeated."),
]
Lists = Annotated[
    list[Path] | None,
    typer.Option(
        "--list", parser=path_argument, metavar="PATH",
        help="A list with a column `url` or `sha256`, or a file with one URL or sha256 a line; may be repeated.",
    ),
]  # fmt: skip

MOST_NAMED = 10
"""Rows with the same bytes that are named one by one."""


@commands.command(epilog="Example: `blip-bootstrap forget --root runs/demo --url http://example.org/a.jpg --dry-run`")
def forget(
    root: Root = None,
    url: Urls = None,
    domain: Domains = None,
    sha256: Digests = None,
    lists: Lists = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would go, and change nothing.")] = False,
    broken: BreakLock = False,
) -> None:
    """Take pictures out of a run for good, with their texts and URLs, wherever it has them; no list brings them back.

    Of a row its key is left. What was trained on it is stale, and the next `run` makes it anew.
    """
    folder = run_folder(root)
    check_run(folder)
    wanted = asked(url or (), domain or (), sha256 or (), lists or ())
    if broken:
        say(break_lock(folder))
    with locked(folder):
        was_begun = is_begun(folder)
        if was_begun and not dry_run:
            say("going on with what was stopped before its end")
            _finish(folder)
        if was_begun and dry_run:
            raise InputError(f"{folder}: `forget` was stopped before its end; the command without --dry-run ends it")
        if not wanted:
            if was_begun:
                return
            raise InputError("nothing to forget: give --url, --domain, --sha256 or --list")
        if not dry_run:
            adopt(folder)
        plan, equal = plan_withdrawal(folder, wanted)
        _tell(plan, equal)
        if dry_run:
            typer.echo("nothing was changed; the command without --dry-run does it, and nothing brings it back")
            return
        begin(folder, plan)
        _finish(folder)


def _finish(folder: Path) -> None:
    plan, receipt = end(folder)
    pages = [name for name in plan.delete if name.endswith(("metrics.json", "report.html")) and "/." not in f"/{name}"]
    if pages:
        _write_pages(folder, sorted(pages, key=lambda name: ("/" not in name, name)))  # that over all rounds last
    typer.echo(f"forgotten: {plan.receipt['rows']:,} rows; receipt {shown(str(receipt))}")


def _write_pages(folder: Path, names: list[str]) -> None:
    """Write figures and pages again that are gone; what cannot be written now the next `run` writes."""
    config = None
    with suppress(BlipBootstrapError):
        config = load_config(folder / "config.yaml", [], root=folder)
    with OpenRun(folder) as run:
        for name in names:
            number = next((at for at in range(100) if name.startswith(f"{round_name(at)}/")), None)
            try:
                if number is not None and name.endswith("metrics.json"):
                    write_figures(folder, number, config.of_round(number).truth if config else None)
                elif number is not None:
                    write_report(folder, number, config.of_round(number).report if config else None, run, always=True)
                elif name == "report.html":
                    write_overview(folder, run, always=True)
            except BlipBootstrapError as error:
                say(f"{name}: not written again ({error}); the next run writes it")


def _tell(plan: Plan, equal: Mapping[str, str]) -> None:
    """What goes, where it is, what stays that is like it, and what is stale, with its cost."""
    told: Mapping[str, Any] = plan.receipt
    size = told_size(told["bytes"])
    typer.echo(f"{told['rows']:,} rows of the lists, {told['pictures']:,} stored pictures ({size}), "
               f"{told['texts']:,} rows of captions, {told['pairs']:,} of pairs")  # fmt: skip
    folders: dict[str, tuple[int, int]] = {}
    for file, rows in told["files"].items():
        folder = "/".join(file.split("/")[:3])
        num_files, num_rows = folders.get(folder, (0, 0))
        folders[folder] = num_files + 1, num_rows + rows
    for folder, (num_files, num_rows) in sorted(folders.items()):
        typer.echo(f"  {folder}: {num_rows:,} rows in {num_files:,} files")
    if folders:
        typer.echo(
            f"  files written anew: {told_size(told['bytes_written_anew'])}; pages and figures: {len(plan.delete):,}"
        )
    if unknown := told["asked"]["not_found"]:
        typer.echo(f"{unknown:,} of what was asked has no row here; it is noted, so that no list brings it")
    for key, url in [*equal.items()][:MOST_NAMED]:
        is_web = " of " not in key
        how = "--sha256 takes it, too" if is_web else "take it out of its list, and run again"
        typer.echo(f"stays: row {key}, {url}, has the same bytes; {how}")
    if len(equal) > MOST_NAMED:
        typer.echo(f"stays: {len(equal) - MOST_NAMED:,} more rows with the same bytes")
    for file in told["named_in"]:
        typer.echo(f"stays: {file} names a URL of it, and is no file of the run's own; delete it if you may")
    for one in told["stale"]:
        typer.echo(f"stale: {one['name']} ({one['folder']}), {one['why']}; took {one['seconds']:,.0f} s to make")
    if told["stale"]:
        typer.echo(f"stale, all together: {sum(one['seconds'] for one in told['stale']):,.0f} s to make anew")
