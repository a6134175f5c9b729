"""The command `audit`, with its parts, which asks about a finished run."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from blip_bootstrap.audit import alarms, audits, languages
from blip_bootstrap.cli.asked_run import Root, RoundNumber, run_folder
from blip_bootstrap.cli.listing import ListedCommands
from blip_bootstrap.cli.options import say
from blip_bootstrap.labels import estimates, human_pairs
from blip_bootstrap.labels.page import serve_labels
from blip_bootstrap.labels.sample import SOURCES, draw_sample
from blip_bootstrap.query.formats import print_table
from blip_bootstrap.stores.store import shown
from blip_pipelines.check.step import score_given

commands = typer.Typer(rich_markup_mode="markdown")


class Source(StrEnum):
    """Where a text is from."""

    web = "web"
    synthetic = "synthetic"


class AuditCommands(ListedCommands):
    """The parts of `audit`; an audit that is named as if it were one is told how to ask it."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The part that `args` begin with, and the arguments after its name."""
        if args[0] not in self.commands and args[0] in audits.AUDITS:
            ctx.fail(f"{args[0]} is an audit, not a command; ask it with `audit --name {args[0]}`")
        return super().resolve_command(ctx, args)


audit_app = typer.Typer(
    cls=AuditCommands,
    help="Show what was kept and dropped, why, and how noisy each source is; or label texts, and what labels say.",
    epilog="Example: `blip-bootstrap audit --round 1 --root runs/demo`",
    invoke_without_command=True,
)

commands.add_typer(audit_app, name="audit")


@audit_app.callback()
def audit(
    context: typer.Context,
    root: Root = None,
    number: RoundNumber = None,
    names: Annotated[
        list[str] | None, typer.Option("--name", help="Ask this audit alone; may be repeated. Default: all of them.")
    ] = None,
    all_rounds: Annotated[bool, typer.Option("--all-rounds", help="Ask about every round in one table.")] = False,
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL of the audits instead of their answers.")] = False,
    fail: Annotated[bool, typer.Option("--alarms", help="Exit with 1 where the round has an alarm.")] = False,
) -> None:
    """Show what was kept and dropped, why, and how noisy each source is; alarms go to standard error."""
    if context.invoked_subcommand:
        return

    if sql:
        typer.echo("\n".join(audits.audit_sql(name) for name in names or audits.AUDITS), nl=False)
        return
    audits.print_audit(run_folder(root), number, names or audits.AUDITS, all_rounds)
    found = alarms.alarms(run_folder(root), number)
    for alarm in found:
        say(f"alarm: {alarm.name}: {alarm.message}")
    if fail:
        alarms.fail_on_alarms(found)


@audit_app.command(epilog="Example: `blip-bootstrap audit sample --round 1 --size 200`")
def sample(
    root: Root = None,
    number: RoundNumber = None,
    size: Annotated[int, typer.Option("--size", min=1, help="How many texts to draw.")] = 200,
    seed: Annotated[int, typer.Option("--seed", help="Another seed draws other texts.")] = 0,
    source: Annotated[
        Source | None, typer.Option("--source", help="Draw web texts alone, or synthetic ones. Default: both.")
    ] = None,
) -> None:
    """Draw texts of a round for people to judge, kept and dropped ones; prints the path of the label file."""
    sources = (source.value,) if source else SOURCES
    typer.echo(shown(str(draw_sample(run_folder(root), number, size, seed, sources))))


@audit_app.command(epilog="Example: `blip-bootstrap audit label --round 1`")
def label(
    root: Root = None,
    number: Annotated[
        int | None, typer.Option("--round", min=0, help="Which round. Default: the last one with a sample.")
    ] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port of the page; 0 takes a free one.")] = 0,
) -> None:
    """Judge a sample on a local page: does the text fit its picture? Keys y, n and u answer."""
    serve_labels(run_folder(root), number, port, say)


@audit_app.command(epilog="Example: `blip-bootstrap audit estimate --round 1`")
def estimate(root: Root = None, number: RoundNumber = None) -> None:
    """Estimate noise, precision and recall of a round, with 95 % intervals, from the answers to its sample."""
    print_table(estimates.estimates_table(estimates.estimates(run_folder(root), number)))
    say(estimates.told_enough(run_folder(root), number))


@audit_app.command("languages", epilog="Example: `blip-bootstrap audit languages --round 1 --texts 100000`")
def identify(
    root: Root = None,
    number: RoundNumber = None,
    texts: Annotated[
        int, typer.Option("--texts", min=0, help="About how many of each source to read; 0: all.")
    ] = 50_000,
) -> None:
    """Identify the language of a round's texts and keep it beside the round; prints the audit `languages`."""
    folder = run_folder(root)
    typer.echo(shown(str(languages.identify_languages(folder, number, texts))))
    audits.print_audit(folder, number, ["languages"])


@audit_app.command(epilog="Example: `blip-bootstrap audit calibrate --round 1`")
def calibrate(
    root: Root = None,
    number: RoundNumber = None,
    size: Annotated[int, typer.Option("--size", min=10, help="How many pictures to draw.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", help="Another seed draws other pictures.")] = 0,
) -> None:
    """Make labels without people: captions of the human or held-out set fit their picture, other web texts do not.

    They are for `select.labels`, where `select.strategy` is `target_noise` or `learned`.
    """
    labels = human_pairs.label_human_pairs(run_folder(root), number, size, seed, score_given)
    typer.echo(shown(str(labels)))
    typer.echo("What select.strategy target_noise would do with them, web texts only:")
    print_table(human_pairs.thresholds_with(labels, run_folder(root), number))
