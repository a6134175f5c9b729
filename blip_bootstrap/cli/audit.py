"""The commands that ask about a finished run: `audit` with its parts, `why` and `diff`; `cli.py` mounts them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from blip_bootstrap.paths import path_argument, run_argument

Root = Annotated[
    Path | None,
    typer.Option(
        "--root", parser=run_argument, metavar="PATH", help="The run, s3:// too. Default: runs/default, else runs/demo."
    ),
]

RoundNumber = Annotated[int | None, typer.Option("--round", min=0, help="Which round. Default: the last one made.")]


class Source(StrEnum):
    """Where a text is from."""

    web = "web"
    synthetic = "synthetic"


audit_app = typer.Typer(
    help="What was kept and dropped, why, and how noisy each source is.",
    epilog="Example: `blip-bootstrap audit --round 1 --root runs/demo`",
    invoke_without_command=True,
)


def run_folder(root: Path | None) -> Path:
    """The run to look at: as given (s3:// and gs://, too), else the default one, else the demo's."""
    if root:
        from blip_bootstrap.storage.remote import opened

        return opened(root)
    return next((path for path in (Path("runs/default"), Path("runs/demo")) if path.is_dir()), Path("runs/default"))


@audit_app.callback()
def audit(
    context: typer.Context,
    root: Root = None,
    number: RoundNumber = None,
    names: Annotated[list[str] | None, typer.Option("--name", help="Only this audit; may be repeated.")] = None,
    all_rounds: Annotated[bool, typer.Option("--all-rounds", help="Every round, one below the other.")] = False,
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL of the audits, word lists and all.")] = False,
    alarms: Annotated[bool, typer.Option("--alarms", help="Exit with 1 where the round has alarms.")] = False,
) -> None:
    """What was kept and dropped, why, and how noisy each source is."""
    if context.invoked_subcommand:
        return
    from blip_bootstrap.audit.alarms import alarms as find
    from blip_bootstrap.audit.alarms import fail_on_alarms
    from blip_bootstrap.audit.audits import AUDITS, audit_sql, print_audit

    if sql:
        typer.echo("\n".join(audit_sql(name) for name in names or AUDITS), nl=False)
        return
    print_audit(run_folder(root), number, names or AUDITS, all_rounds)
    found = find(run_folder(root), number)
    for alarm in found:
        typer.echo(f"alarm: {alarm.name}: {alarm.message}", err=True)
    if alarms:
        fail_on_alarms(found)


@audit_app.command(epilog="Example: `blip-bootstrap audit sample --round 1 --size 200`")
def sample(
    root: Root = None,
    number: RoundNumber = None,
    size: Annotated[int, typer.Option("--size", min=1, help="How many texts.")] = 200,
    seed: Annotated[int, typer.Option("--seed", help="Another seed draws other texts.")] = 0,
    source: Annotated[Source | None, typer.Option("--source", help="Only web or only synthetic texts.")] = None,
) -> None:
    """Draw a stratified sample of a round's texts for people to answer."""
    from blip_bootstrap.labels.sample import SOURCES, draw_sample

    sources = (source.value,) if source else SOURCES
    typer.echo(str(draw_sample(run_folder(root), number, size, seed, sources)))


@audit_app.command(epilog="Example: `blip-bootstrap audit label --round 1`")
def label(
    root: Root = None,
    number: Annotated[int | None, typer.Option("--round", min=0, help="Default: the last one sampled.")] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any free one.")] = 0,
) -> None:
    """Answer a sample on a local page: does the text fit the picture? Yes, no, unsure, by keyboard."""
    from blip_bootstrap.labels.page import serve_labels

    serve_labels(run_folder(root), number, port, lambda line: typer.echo(line, err=True))


@audit_app.command(epilog="Example: `blip-bootstrap audit estimate --round 1`")
def estimate(root: Root = None, number: RoundNumber = None) -> None:
    """Noise, precision and recall of a round, with intervals, from the answers to its sample."""
    from blip_bootstrap.labels.estimates import estimates, estimates_table
    from blip_bootstrap.query.formats import PipedConsole, rich_table

    console = PipedConsole()
    console.print(rich_table(estimates_table(estimates(run_folder(root), number)), console.width))


@audit_app.command(epilog="Example: `blip-bootstrap audit languages --round 1 --texts 100000`")
def languages(
    root: Root = None,
    number: RoundNumber = None,
    texts: Annotated[int, typer.Option("--texts", min=0, help="About how many of each source; 0: all.")] = 50_000,
) -> None:
    """Identify the languages of a round's texts, for the audit of the same name."""
    from blip_bootstrap.audit.audits import audit, print_answers
    from blip_bootstrap.audit.languages import identify_languages
    from blip_bootstrap.query.formats import PipedConsole

    folder = run_folder(root)
    typer.echo(str(identify_languages(folder, number, texts)))
    print_answers(PipedConsole(), audit(folder, number, ["languages"]))


@audit_app.command(epilog="Example: `blip-bootstrap audit calibrate --round 1`")
def calibrate(
    root: Root = None,
    number: RoundNumber = None,
    size: Annotated[int, typer.Option("--size", min=10, help="How many pictures.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", help="Another seed draws other pairs.")] = 0,
) -> None:
    """Label without people: human captions fit their picture, web texts on another do not; for `select.labels`."""
    from blip_bootstrap.labels.human_pairs import label_human_pairs
    from blip_bootstrap.query.formats import PipedConsole, rich_table
    from blip_bootstrap.select.calibrate import thresholds_table
    from blip_bootstrap.storage.parquet import parquet_files
    from blip_bootstrap.storage.run_folder import resolve_round, round_folder

    folder = run_folder(root)
    labels = label_human_pairs(folder, number, size, seed)
    typer.echo(str(labels))
    captions = parquet_files(round_folder(folder, resolve_round(folder, number)) / "captions")
    console = PipedConsole()
    console.print("What select.strategy target_noise would do with them, web texts only:")
    console.print(rich_table(thresholds_table(captions, labels, ["web"]), console.width))


def why(
    name: Annotated[str, typer.Argument(metavar="KEY", help="An image's key, uid, sha256 or URL.")],
    root: Root = None,
    page: Annotated[
        Path | None,
        typer.Option(
            "--page", parser=path_argument, metavar="PATH", help="Write it here as a page with the picture, too."
        ),
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Show that page in the browser.")] = False,
) -> None:
    """Everything about one image: where from, every text in every round, scores, verdicts, settings."""
    from blip_bootstrap.report.why import print_why

    if open_page and page is None:
        import tempfile

        page = Path(tempfile.mkdtemp(prefix="blip-bootstrap-")) / "why.html"
    print_why(run_folder(root), name, page)
    if page:
        typer.echo(str(page))
    if open_page and page:
        typer.launch(page.resolve().as_uri())


def diff(
    rounds: Annotated[tuple[int, int], typer.Option("--rounds", help="Before and after.")],
    root: Root = None,
    other: Annotated[
        Path | None,
        typer.Option("--other", parser=run_argument, metavar="PATH", help="The run that `after` is a round of."),
    ] = None,
) -> None:
    """What changed between two rounds, or between rounds of two runs."""
    from blip_bootstrap.audit.diff import print_diff

    print_diff(run_folder(root), rounds[0], rounds[1], run_folder(other) if other else None)


def mount(app: typer.Typer) -> None:
    """Add these commands to the console script's app."""
    app.add_typer(audit_app, name="audit")
    app.command(epilog="Example: `blip-bootstrap why 0000000042 --root runs/demo --open`")(why)
    app.command(epilog="Example: `blip-bootstrap diff --rounds 1 2 --root runs/demo`")(diff)
