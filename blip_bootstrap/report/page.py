"""What the sections of a page are made from."""

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
class Page:
    """What the sections are made from; `rounds` holds the figures of the rounds up to this one that have any."""

    root: Path
    number: int
    config: ReportConfig
    connection: duckdb.DuckDBPyConnection
    audits: Audits
    rounds: Sequence[Mapping[str, Any]]
    manifests: Mapping[str, Mapping[str, Any]]

    @property
    def figures(self) -> Mapping[str, Any]:
        """The figures of this round; none while it is being made."""
        return next((one for one in self.rounds if one["round"] == self.number), {})

    @property
    def threshold(self) -> float | None:
        """The ITM score that this round's selection cut at, 0..1; None where it cut by another score."""
        manifest = self.manifests.get(f"{round_name(self.number)}/pairs", {})
        cut = cut_of({"itm_threshold": 0.5} | manifest.get("settings", {}) | manifest.get("counts", {}))
        return cut[1] if cut and cut[0] == "itm_score" else None
