"""Pictures that are there more than once: which are found, and trained on once."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from blip_bootstrap.settings.marks import IdleWhere
from blip_bootstrap.settings.section import Section


class DuplicatesConfig(Section):
    """Pictures that the lists have several times: they are grouped, and one of each group is trained on."""

    exact: bool = Field(
        True,
        description="group pictures of the same bytes (sha256), and rows of the same URL and text, where two URLs "
        "differ in the case of scheme and host, in a default port or in a fragment alone",
    )
    near: bool = Field(
        False,
        description="group pictures that look alike, too (resized, re-encoded, cropped a little): each stored picture "
        "is decoded and hashed (PDQ); pictures that look like one of the human or the held-out set are left out of "
        "training",
    )
    near_radius: Annotated[int, Field(ge=0, le=31), IdleWhere("near", False)] = Field(
        31,
        description="bits of 256 in which the hashes of two pictures that look alike differ at most; up to 15 every "
        "pair is found, up to 31 nearly every one",
    )
    least_quality: Annotated[int, Field(ge=0, le=100), IdleWhere("near", False)] = Field(
        50, description="a picture whose hash has a lower quality (PDQ's, 0..100) has no structure, and is like none"
    )

    @property
    def wanted(self) -> bool:
        """Whether any duplicates are looked for."""
        return self.exact or self.near
