"""What a disk holds after a power cut: operations replayed, and what was not fsynced dropped.

The model is that of a journaling file system at its worst. Bytes of a file are on the disk once it was fsynced since
they were written; a name that was made, moved or removed is, once the folder was fsynced after it. A rename from one
folder to another is one change, which the fsync of either makes last. The order of what was not fsynced is free.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from tests.support.operations import Operation

Loss = Literal["all", "bytes", "some", "none"]
"""What of that which was not fsynced is lost: all; bytes alone, names kept (the journal was written, the data was not);
some of the names, by chance, and half of bytes; none, which is what a process leaves that dies."""


@dataclass(eq=False)
class Node:
    """A file, link or folder, as processes see it and (`kept`) as the disk has it."""

    is_folder: bool = False
    target: str = ""
    data: bytes = b""
    kept_data: bytes | None = None
    inside: dict[str, Node] = field(default_factory=dict)
    kept_inside: dict[str, Node] = field(default_factory=dict)
    pending: list[Change] = field(default_factory=list)


@dataclass(eq=False)
class Change:
    """Names that an operation changed and the disk may not have yet: folder, name, what is there now, if anything."""

    names: list[tuple[Node, str, Node | None]]

    def keep(self) -> None:
        """It is on the disk now."""
        for folder, name, node in self.names:
            folder.pending = [one for one in folder.pending if one is not self]
            if node is None:
                folder.kept_inside.pop(name, None)
            else:
                folder.kept_inside[name] = node


class Disk:
    """A folder that operations are done on, one after another."""

    def __init__(self, operations: Iterable[Operation] = ()) -> None:
        self.top = Node(is_folder=True)
        for one in operations:
            self.do(one)

    def do(self, one: Operation) -> None:
        """Do an operation."""
        if one.kind == "fsync folder":
            for change in list(self.node(one.path).pending):
                change.keep()
        elif one.kind == "fsync":
            self.node(one.path).kept_data = one.data
        elif one.kind == "create":
            folder, name = self.place(one.path)
            if name in folder.inside:
                folder.inside[name].data = b""
            else:
                self._change((one.path, Node()))
        elif one.kind == "write":
            node = self.node(one.path)
            node.data = node.data[: one.at].ljust(one.at, b"\0") + one.data + node.data[one.at + len(one.data) :]
        elif one.kind == "replace":
            self._change((one.path, None), (one.to, self.node(one.path)))
        elif one.kind == "mkdir":
            self._change((one.path, Node(is_folder=True)))
        elif one.kind == "symlink":
            self._change((one.path, Node(target=one.to)))
        elif one.kind in ("unlink", "rmdir"):
            self._change((one.path, None))
        else:
            raise ValueError(f"the model of a disk does not know the operation {one}")

    def _change(self, *names: tuple[str, Node | None]) -> None:
        change = Change([(*self.place(path), node) for path, node in names])
        for folder, name, node in change.names:
            if node is None:
                del folder.inside[name]
            else:
                folder.inside[name] = node
        for folder in {id(one): one for one, _, _ in change.names}.values():
            folder.pending.append(change)

    def place(self, path: str) -> tuple[Node, str]:
        """The folder that a name is in, and the name."""
        node, parts = self.top, [one for one in PurePosixPath(path).parts if one != "."]
        for part in parts[:-1]:
            node = node.inside[part]
        return node, parts[-1]

    def node(self, path: str) -> Node:
        """What is at a path."""
        if path == ".":
            return self.top
        folder, name = self.place(path)
        return folder.inside[name]

    def after_power_cut(self, folder: Path, loss: Loss, seed: int = 0) -> None:
        """Write into `folder` what is on the disk after a power cut."""
        rng = random.Random(seed)
        if loss == "some":  # a journal keeps order within a folder
            for node in self._folders(self.top):
                for change in node.pending[: rng.randint(0, len(node.pending))]:
                    change.keep()
        self._write(self.top, folder, loss, rng)

    def _folders(self, node: Node) -> list[Node]:
        return [node, *(one for child in node.inside.values() if child.is_folder for one in self._folders(child))]

    def _write(self, node: Node, path: Path, loss: Loss, rng: random.Random) -> None:
        if node.is_folder:
            path.mkdir(exist_ok=True)
            for name, child in (node.inside if loss in ("bytes", "none") else node.kept_inside).items():
                self._write(child, path / name, loss, rng)
        elif node.target:
            path.symlink_to(node.target)
        elif loss == "none" or node.kept_data == node.data:
            path.write_bytes(node.data)
        else:
            kept = b"" if node.kept_data is None else node.kept_data
            path.write_bytes(node.data[: rng.randint(0, len(node.data))] if loss == "some" else kept)
