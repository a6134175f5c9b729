"""What a picture does to the process that decodes it is a row, and no process is left behind."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blip_bootstrap.errors import RunFailed
from blip_bootstrap.schemas.closed_lists import ERROR_CLASSES
from blip_training.data.decode import PictureError, decode_to_rgb
from blip_training.data.picture_processes import PictureProcesses

MAX_PIXELS = 100_000


def picture(seed: int = 0, side: int = 64) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def pixels_of(seed: int) -> bytes:
    return Image.open(io.BytesIO(picture(seed))).tobytes()


def processes(work: Any = None, timeout_s: float = 10.0, **more: Any) -> PictureProcesses:
    return PictureProcesses(work or partial(decode_to_rgb, max_pixels=MAX_PIXELS), MAX_PIXELS, timeout_s, **more)


def exec_body(body: bytes) -> tuple[dict[str, Any], bytes]:
    """Do what the body says: it stands for what a hostile picture makes a decoder do."""
    exec(body.decode())
    return {}, body


def children() -> list[int]:
    """Of this thread; some may be of other tests."""
    listed = Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/children").read_text()
    return [int(pid) for pid in listed.split()]


def failure(kept: PictureProcesses, body: str) -> tuple[str, str]:
    with pytest.raises(PictureError) as error:
        kept(body.encode())
    assert error.value.error_class in ERROR_CLASSES
    return error.value.error_class, error.value.message


def test_a_child_is_kept_and_answers_in_turn() -> None:
    with processes() as kept:
        first = [kept(picture(seed)) for seed in range(3)]
        assert [content for _, content in first] == [pixels_of(seed) for seed in range(3)]
        assert first[0][0] == {"width": 64, "height": 64}
        before = children()
        with pytest.raises(PictureError, match="no picture format") as error:
            kept(b"<html>")
        assert error.value.error_class == "not_an_image"
        assert kept(picture(5))[1] == pixels_of(5)
        assert children() == before
        assert kept.cpu_s > 0


def test_many_threads_and_fewer_children() -> None:
    with processes(count=2) as kept, ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(kept, map(picture, range(40))))
    assert [content for _, content in answers] == [pixels_of(seed) for seed in range(40)]


@pytest.mark.parametrize(
    ("body", "error_class", "said"),
    [
        ("while True: pass", "decode_timeout", "took over 1 s"),
        ("import time; time.sleep(1000)", "decode_timeout", "took over 1 s"),
        ("bytearray(10**10)", "decoder_died", "takes over 402 MB of memory"),
        ("import os; os.kill(os.getpid(), 9)", "decoder_died", "was killed, as Linux does where memory runs out"),
        ("import os; os.abort()", "decoder_died", "was ended by SIGABRT, 2 times"),
        ("import os; os._exit(7)", "decoder_died", "ended with 7, 2 times"),
        ("1 / 0", "other", "ZeroDivisionError: division by zero"),
        ("print('x' * 100_000); 1 / 0", "other", "ZeroDivisionError"),
    ],
)
def test_what_a_picture_may_do(body: str, error_class: str, said: str) -> None:
    with processes(exec_body, timeout_s=1.0 if error_class == "decode_timeout" else 60.0) as kept:
        found = failure(kept, body)
        assert found[0] == error_class
        assert said in found[1]
        assert kept(b"1")[1] == b"1"  # another child has taken its place


def test_a_child_that_another_has_killed_costs_nothing() -> None:
    before = {*children()}
    with processes(exec_body) as kept:
        kept(b"1")
        (child,) = {*children()} - before
        os.kill(child, signal.SIGKILL)
        assert kept(b"2")[1] == b"2"
        assert child not in children()


def test_a_real_picture_over_the_deadline_and_one_of_much_memory() -> None:
    body = picture(side=3_000)
    with PictureProcesses(partial(decode_to_rgb, max_pixels=10**7), 10**7, 0.02) as kept:
        with pytest.raises(PictureError) as error:
            kept(body)
        assert error.value.error_class == "decode_timeout"
    wide = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(wide, "PNG")
    with PictureProcesses(work_without_limit, 10**6, 60.0) as kept:  # 400 million pixels, memory for a million
        with pytest.raises(PictureError) as error:
            kept(wide.getvalue())
        assert error.value.error_class == "decoder_died"


def work_without_limit(body: bytes) -> tuple[dict[str, int], bytes]:
    Image.MAX_IMAGE_PIXELS = None
    return decode_to_rgb(body, 10**9)


def test_they_end_with_what_made_them() -> None:
    before = {*children()}
    kept = processes(count=3)
    assert len({*children()} - before) == 1  # the others start when they are needed
    del kept
    assert {*children()} <= before


def test_one_that_does_not_start_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cv2.py").write_text("raise ImportError('no such library')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with processes() as kept, pytest.raises(RunFailed, match=r"does not start: ImportError: no such library$"):
        kept(picture())


PARENT = """
import sys, threading
from functools import partial
from blip_training.data.picture_processes import PictureProcesses
from blip_training.data.decode import decode_to_rgb
kept = PictureProcesses(eval, 1000, 10.0)
child = kept._children[0]._process.pid
threading.Timer(1.0, lambda: print(child, flush=True)).start()
try:
    kept(b"__import__('time').sleep(3)")
except KeyboardInterrupt:
    kept.close()
    sys.exit(130)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_no_child_outlives_its_parent(number: signal.Signals, code: int) -> None:
    """Killed while the child is at work, which does not notice before it has its answer; interrupted likewise."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    ) as parent:
        assert parent.stdout
        assert parent.stderr
        child = int(parent.stdout.readline())
        os.killpg(parent.pid, number)
        assert parent.wait(10) == code
        assert parent.stderr.read() == ""
    for _ in range(100):
        if not Path(f"/proc/{child}").exists():
            return
        time.sleep(0.1)
    pytest.fail(f"process {child} is left behind")


def test_an_interrupted_answer_is_nobodys() -> None:
    with processes(exec_body) as kept:
        kept(b"1")
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            kept(b"import time; time.sleep(1)")
        assert kept(b"2")[1] == b"2"


def test_after_a_fork_each_process_has_its_own() -> None:
    with processes(exec_body) as kept:
        kept(b"1")
        before = children()
        pid = os.fork()
        if not pid:
            answered = kept(b"2")[1] == b"2"
            kept.close()
            os._exit(not answered)
        assert os.waitpid(pid, 0)[1] == 0
        assert kept(b"3")[1] == b"3"
        assert children() == before
