"""What the sections of a page are drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from blip_bootstrap.audit.audits import Audits
from blip_bootstrap.config import ReportConfig
from blip_bootstrap.query.verdicts import cut_of
from blip_bootstrap.storage.run_folder import round_name


@dataclass(frozen=True)
class PageData:
    """What the sections of a page about round `number` are drawn from.

    `rounds` are the figures of the rounds up to this one that have any, `manifests` the steps' MANIFESTs by name.
    """

    root: Path
    number: int
    config: ReportConfig
    connection: duckdb.DuckDBPyConnection
    audits: Audits
    rounds: Sequence[Mapping[str, Any]]
    manifests: Mapping[str, Mapping[str, Any]]

    @property
    def figures(self) -> Mapping[str, Any]:
        """The figures of this round; empty where it has none yet."""
        return next((one for one in self.rounds if one["round"] == self.number), {})

    @property
    def threshold(self) -> float | None:
        """The ITM score below which this round's selection dropped texts; None where it went by another score."""
        manifest = self.manifests.get(f"{round_name(self.number)}/pairs", {})
        cut = cut_of({"itm_threshold": 0.5} | manifest.get("settings", {}) | manifest.get("counts", {}))
        return cut[1] if cut and cut[0] == "itm_score" else None
