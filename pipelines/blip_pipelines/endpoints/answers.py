"""What servers of chat completions answer, and what they mean by it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

LONGEST_ANSWER_BYTES = 4 << 20

REFUSALS = ("content_filter", "content_policy", "responsibleaipolicy", "safety", "moderation")
"""Codes of errors by which servers say that they will not write about a picture, in lower case."""

SIZES = ("context_length_exceeded", "string_above_max_length", "image_too_large", "request_too_large")

QUOTA = ("insufficient_quota",)
"""Of a 429 that waiting does not cure."""


class BadAnswer(ValueError):  # noqa: N818 - it is the outcome's name
    """An answer that cannot be read; `reason` is of `closed_lists.NO_ANSWERS`."""

    def __init__(self, reason: str = "bad_answer", *, final: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.final = reason, final


@dataclass(frozen=True)
class Response:
    """A server's answer, whole."""

    status: int
    header: Callable[[str], str | None]
    raw: bytes

    def payload(self) -> Mapping[str, Any] | None:
        """Its body as an object of JSON; None where it is none."""
        try:
            found = json.loads(self.raw)
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, Mapping) else None

    def failure(self, payload: Mapping[str, Any] | None) -> tuple[int, str, str]:
        """Its status, the error's code in lower case, and its words; gateways send some errors with status 200."""
        error = (payload or {}).get("error")
        if not error:
            return self.status, "", "" if payload else self.raw[:200].decode(errors="replace")
        if not isinstance(error, Mapping):
            return (self.status if self.status != 200 else 500), "", str(error)
        code = error.get("code")
        status = int(str(code)) if self.status == 200 and str(code).isdecimal() else self.status
        codes = [code, error.get("type"), *(error["metadata"] if isinstance(error.get("metadata"), Mapping) else ())]
        inner = error.get("innererror")
        codes += [inner.get("code")] if isinstance(inner, Mapping) else []
        words = [str(one).lower() for one in codes if one]
        named = next((one for one in words if any(r in one for r in REFUSALS) or one in SIZES or one in QUOTA), "")
        return (500 if status == 200 else status), named, str(error.get("message", ""))


async def receive(response: aiohttp.ClientResponse) -> Response:
    """A server's whole answer. Raises ClientPayloadError where it breaks off, or is too long to be one."""
    raw = bytearray()
    async for piece in response.content.iter_any():
        raw += piece
        if len(raw) > LONGEST_ANSWER_BYTES:
            raise aiohttp.ClientPayloadError(f"over {LONGEST_ANSWER_BYTES} bytes")
    return Response(response.status, response.headers.get, bytes(raw))
