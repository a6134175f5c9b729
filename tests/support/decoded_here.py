"""In the place of the child processes that decode: the same work, in this process, without their start."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from blip_bootstrap.config import DownloadConfig
from blip_pipelines.ingest.pictures import Stored, store_human, store_web
from blip_training.data.decode import PictureError


class Here:
    """Makes what stands for the children that decode: the same work, in this process."""

    def __init__(self, work: Callable[[Any, bytes], Any]) -> None:
        self.work = work

    def __call__(self, config: Any, count: int | None = None) -> Store:
        return Store(partial(self.work, config))


class Store:
    def __init__(self, work: Callable[[bytes], Any]) -> None:
        self.work = work

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self, body: bytes) -> Any:
        return self.work(body)

    def submit(self, body: bytes) -> Future[Any]:
        answer = Future[Any]()
        try:
            answer.set_result(self.work(body))
        except PictureError as error:
            answer.set_exception(error)
        return answer


def web(config: DownloadConfig, body: bytes) -> Any:
    limits = config.min_image_size, config.max_aspect_ratio
    return store_web(body, config.max_pixels, Stored.of(config), *limits)


def human(config: Any, body: bytes) -> Any:
    return store_human(body, config.max_pixels, Stored.of(config))
