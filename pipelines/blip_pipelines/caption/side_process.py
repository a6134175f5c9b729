"""A process beside the command's own in which a run without Ray makes its captions.

It imports torch, which takes a second or two, while the command reads lists and fetches pictures; in a thread of the
command's it would hold up both. It knows rows and no tables, for pyarrow is one import more.
"""

from __future__ import annotations

import atexit
import gc
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from blip_bootstrap.errors import RunFailed

if TYPE_CHECKING:
    from blip_bootstrap.config import Config


Row = dict[str, Any]

SERVE = """
import signal
for number in (signal.SIGINT, signal.SIGTERM):  # they may reach both: the command ends this one
    signal.signal(number, signal.SIG_IGN)
import sys
from blip_pipelines.caption.side_process import serve
serve(int(sys.argv[1]))
"""


class CaptionProcess:
    """The process, seen from the command's: what a CaptionWorker does, done there.

    It ends with the command, however that ends.
    """

    def __init__(self) -> None:
        self._pipe, theirs = Pipe()
        with theirs:
            # -P: without it a torch.py in the working directory would be imported.
            command = [sys.executable, "-P", "-c", SERVE, str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        self.metadata: dict[str, str] = {}

    def load(self, *arguments: Any) -> CaptionProcess:
        """Make the CaptionWorker of `arguments` there; raises as its constructor, RunFailed where the process died."""
        (self.metadata,) = self._answers(arguments, iter(()))
        return self

    def in_blocks(self, blocks: Iterable[Sequence[Row]]) -> Iterator[tuple[list[Row], bool]]:
        """As CaptionWorker's. Raises RunFailed where the process dies."""
        upcoming = iter(blocks)
        yield from self._answers(next(upcoming, None), upcoming)

    def _answers(self, question: Any, upcoming: Iterator[Any]) -> Iterator[Any]:
        """What it has to say to a question; `upcoming` are more, for when it asks for them."""
        try:
            self._pipe.send(question)
            while (answer := self._pipe.recv()) is not None:
                kind, value = answer
                if kind == "raised":
                    raise value
                if kind == "more":
                    self._pipe.send(next(upcoming, None))
                else:
                    yield value
        except (EOFError, ConnectionError) as error:
            raise RunFailed(f"caption: {self._end()}; run again to go on") from error

    def _end(self) -> str:
        """How the process ended, in words."""
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return "the captioning process was killed, which is what Linux does where memory runs out"
        return f"the captioning process ended with {code}"

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._pipe.close()
        self._process.kill()
        self._process.wait()


_running: CaptionProcess | None = None


def start() -> None:
    """Start the command's process, if it has none; it ends with `close`, or with the command."""
    global _running
    if _running is None:
        _running = CaptionProcess()


@contextmanager
def caption_process() -> Iterator[None]:
    """Have a CaptionProcess while the body makes a round: started before anybody knows whether it is needed."""
    start()
    try:
        yield
    finally:
        close()


def close_unless_first(config: Config, number: int) -> None:
    """End the process unless captions are the first in round `number` that needs torch: where both models are given.

    On a cluster actors caption.
    """
    given = number > 0 and config.captioner.checkpoint and config.filter.checkpoint
    if not given or config.ray.address not in ("none", "local"):
        close()


def running() -> CaptionProcess | None:
    """The command's process for captions, where it has one."""
    return _running


@atexit.register
def close() -> None:
    """End that process, where there is one; its memory is free then."""
    global _running
    if _running:
        _running.close()
    _running = None


def _received(pipe: Connection, block: list[Row] | None) -> Iterator[list[Row]]:
    """This block and those after it, each asked for as it is wanted."""
    while block is not None:
        yield block
        pipe.send(("more", None))
        block = pipe.recv()


def serve(descriptor: int) -> None:
    """What the process does: a CaptionWorker of what comes first, captions for the blocks of rows that come then."""
    gc.disable()  # a tenth of the imports' time
    from blip_pipelines.caption.worker import CaptionWorker
    from blip_training.checkpoint import store  # noqa: F401  # with torch, before there is anything to caption
    from blip_training.decoding import generate  # noqa: F401  # with torch, before there is anything to caption

    gc.freeze()  # else the first collections would look through all of torch
    gc.enable()
    worker: CaptionWorker | None = None
    with Connection(descriptor) as pipe, suppress(EOFError, ConnectionError):
        while True:
            asked, last = pipe.recv(), None
            try:
                if worker is None:
                    worker = CaptionWorker(*asked)
                    pipe.send(("made", worker.metadata))
                else:
                    for made in worker.in_blocks(_received(pipe, asked)):
                        pipe.send(("made", made))
            except ConnectionError:
                raise
            except Exception as error:  # noqa: BLE001 - raised on the other side
                error.add_note(traceback.format_exc())
                last = "raised", error
            pipe.send(last)
