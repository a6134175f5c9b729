"""The command `artifacts`: what lies under a run's root."""

from __future__ import annotations

from collections.abc import Sequence

from blip_bootstrap.cli.options import Root, run_folder


def artifacts(root: Root = None) -> None:
    """List what steps have made: by which round it is used, step, recipe digest, rows, size, state."""
    from blip_bootstrap.loop.leftovers import list_artifacts
    from blip_bootstrap.storage.run_folder import check_run

    folder = run_folder(root)
    check_run(folder)
    rows = [
        (", ".join(one.names), one.step, one.digest, f"{one.rows:,}" if one.rows else "", told_size(one.size_bytes),
         one.made[:16].replace("T", " "), one.state)
        for one in list_artifacts(folder)
    ]  # fmt: skip
    print_rows(("name", "step", "digest", "rows", "size", "made", "state"), rows)


def print_rows(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table of texts; nothing where it has no rows."""
    from rich.console import Console
    from rich.table import Table

    if not rows:
        return
    table = Table(*head, header_style="bold")
    for row in rows:
        table.add_row(*row)
    Console(width=None if Console().is_terminal else 200).print(table)


def told_size(size_bytes: float) -> str:
    """A size as people read it: 3.2 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:,.1f} TB"
