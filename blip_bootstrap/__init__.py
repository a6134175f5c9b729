"""CapFilt, closed: download, caption, filter, audit, train, and the next round (BLIP, arXiv 2201.12086)."""

from importlib.metadata import version

__version__ = version("blip-bootstrap")
