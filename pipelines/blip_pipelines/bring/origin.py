"""Where a picture lies that is there already: its file, and the place in it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Origin:
    """A picture's file, named from its entry of download.pictures on, and where it is in that.

    In a tar file that is `size` bytes from the byte `at` (once it is unpacked, where it is compressed); in Parquet a
    `row` of a `column`; else the file is the picture. `sha256` is what was said of its bytes, `checked` whether that is
    of the bytes that are there, rather than of those from which they were resized.
    """

    entry: str
    file: str
    at: int | None = None
    size: int | None = None
    row: int | None = None
    column: str | None = None
    sha256: str | None = None
    checked: bool = False

    def to_json(self) -> str:
        """As the column `origin` of the table `images` has it."""
        return json.dumps(
            {name: value for name, value in asdict(self).items() if value not in (None, "") and value is not False}
        )

    @classmethod
    def of_json(cls, text: str) -> Origin:
        """Read the column `origin`."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Source:
    """A file, or folder of pictures, that is read at once: `kind` webdataset, parquet, list or files.

    `path` is its path or URI, `name` the same from its entry's folder on.
    """

    entry: str
    kind: str
    path: str
    name: str
