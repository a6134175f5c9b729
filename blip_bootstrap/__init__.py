"""CapFilt, closed: download, caption, filter, audit, train, and the next round (BLIP, arXiv 2201.12086)."""

from __future__ import annotations

__version__ = "0.1.0"
