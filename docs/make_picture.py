"""Makes docs/images/report.png: the head of a round's page of the demo, as a browser shows it.

    .venv/bin/python docs/make_picture.py [--root runs/demo] [--round 1] [--out docs/images/report.png]

Needs Chromium. The demo's pictures are drawn; make no such picture of photographs, which are not ours to publish.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

WIDTH_PX, HEIGHT_PX = 1180, 1620

COLOURS = 160
"""Of the picture's palette: the page has flat colours, and the file is a third of what it would be."""


def main() -> int:
    """Take the picture; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("runs/demo"))
    parser.add_argument("--round", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images" / "report.png")
    asked = parser.parse_args()
    page = asked.root / f"round-{asked.round:02d}" / "report.html"
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None or not page.is_file():
        what = "no Chromium found; install the package chromium" if browser is None else f"{page}: no such page"
        sys.stderr.write(f"error: {what}\n")
        return 2
    take_picture(browser, page, asked.out)
    sys.stdout.write(f"{asked.out}\n")
    return 0


def take_picture(browser: str, page: Path, out: Path) -> None:
    """Draw the head of `page` in a headless browser, in light colours, and keep it with a palette of its own."""
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        flags = [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
            "--hide-scrollbars", "--blink-settings=preferredColorScheme=1", f"--user-data-dir={folder}/profile",
            f"--window-size={WIDTH_PX},{HEIGHT_PX}", f"--screenshot={shot}",
        ]  # fmt: skip
        subprocess.run([browser, *flags, page.resolve().as_uri()], check=True, capture_output=True, timeout=120)
        out.parent.mkdir(parents=True, exist_ok=True)
        Image.open(shot).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(out, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
