"""The pictures of the demo: drawn scenes of one to three things, each of a colour, a shape, a size and a place."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image, ImageDraw

Domain = Literal["in", "near", "out"]

Relation = Literal["left", "right", "above", "below"]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "blue": (45, 85, 215),
    "green": (40, 150, 60),
    "yellow": (245, 210, 40),
    "black": (28, 28, 30),
    "purple": (140, 55, 175),
    "orange": (245, 130, 25),
    "cyan": (50, 200, 215),
}

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")

SIZES = ("small", "large")

HUMAN_COLOURS = tuple(COLOURS)[:5]
"""The colours of in-domain scenes; as in nocaps, the human set shows few others."""

HUMAN_SHAPES = SHAPES[:4]
"""The shapes of in-domain scenes."""

DOMAINS: tuple[Domain, ...] = get_args(Domain)

RADII = {"small": (0.15, 0.16), "large": (0.22, 0.235)}
"""Radius by size, as a fraction of the picture's side."""

RELATION_MARGIN = 0.15
"""Two things are left, right, above or below of each other where their centres are this fraction of the side apart."""

_REACH = 1.45
"""The largest distance of a corner from the centre of its shape, in radii."""

OPPOSITE: dict[Relation, Relation] = {"left": "right", "right": "left", "above": "below", "below": "above"}


@dataclass(frozen=True)
class Thing:
    """A drawn thing; place and radius are fractions of the picture's side, y points down, the angle is in degrees."""

    colour: str
    shape: str
    size: str
    x: float
    y: float
    radius: float
    angle: float


@dataclass(frozen=True)
class Scene:
    """What is in a picture; `noise_seed` decides its background."""

    things: tuple[Thing, ...]
    noise_seed: int = 0

    @property
    def domain(self) -> Domain:
        """`in` where all things have human colours and shapes, `out` where none has either, else `near`."""
        familiar = [(t.colour in HUMAN_COLOURS, t.shape in HUMAN_SHAPES) for t in self.things]
        if all(all(pair) for pair in familiar):
            return "in"
        return "near" if any(any(pair) for pair in familiar) else "out"

    def as_dict(self) -> dict[str, Any]:
        """The scene as JSON-able data; `scene_from` reads it back."""
        return asdict(self)


def scene_from(data: Scene | Mapping[str, Any]) -> Scene:
    """The scene of `Scene.as_dict()`'s data; a Scene is returned as it is."""
    if isinstance(data, Scene):
        return data
    return Scene(tuple(Thing(**thing) for thing in data["things"]), int(data.get("noise_seed", 0)))


def relation(first: Thing, second: Thing) -> Relation | None:
    """Where `first` is, seen from `second`, on the axis on which they are further apart; None where they are close."""
    dx, dy = first.x - second.x, first.y - second.y
    if max(abs(dx), abs(dy)) < RELATION_MARGIN:
        return None
    if abs(dx) >= abs(dy):
        return "left" if dx < 0 else "right"
    return "above" if dy < 0 else "below"


def sample_scene(rng: random.Random, num_things: int = 1, domain: Domain | None = None) -> Scene:
    """A random scene of one to three things, of the given domain or of any.

    Things do not overlap, and no two have the same colour and shape. Raises ValueError for another number of things.
    """
    if num_things not in (1, 2, 3):
        raise ValueError(f"a scene has one to three things, not {num_things}")
    while True:
        kinds = [_sample_kind(rng, domain) for _ in range(num_things)]
        if len(set(kinds)) < num_things:
            continue
        places = _sample_places(rng, num_things)
        things = tuple(_sample_thing(rng, *kind, *place) for kind, place in zip(kinds, places, strict=True))
        scene = Scene(things, rng.randrange(2**31))
        if domain is None or scene.domain == domain:
            return scene


def _sample_kind(rng: random.Random, domain: Domain | None) -> tuple[str, str]:
    """A random colour and shape; for `in` and `out` of that domain only, so that few scenes are discarded."""
    colours: Sequence[str] = tuple(COLOURS)
    shapes: Sequence[str] = SHAPES
    if domain == "in":
        colours, shapes = HUMAN_COLOURS, HUMAN_SHAPES
    elif domain == "out":
        colours, shapes = colours[len(HUMAN_COLOURS) :], shapes[len(HUMAN_SHAPES) :]
    return rng.choice(colours), rng.choice(shapes)


def _sample_thing(rng: random.Random, colour: str, shape: str, x: float, y: float) -> Thing:
    size = rng.choice(SIZES)
    radius = rng.uniform(*RADII[size])
    # A turned square or cross would look like another shape at 32 px.
    return Thing(colour, shape, size, round(x, 3), round(y, 3), round(radius, 3), round(rng.uniform(-6, 6), 1))


def _sample_places(rng: random.Random, num_things: int) -> list[tuple[float, float]]:
    """Centres: one in the middle, two side by side or one above the other, three in corners."""
    # They move little: in the demo's short training, a small ViT does not learn shapes that may lie anywhere.

    def near(centre: float, spread: float) -> float:
        return centre + rng.uniform(-spread, spread)

    if num_things == 1:
        return [(near(0.5, 0.04), near(0.5, 0.04))]
    if num_things == 2:
        along, across = [near(0.26, 0.02), near(0.74, 0.02)], [near(0.5, 0.03), near(0.5, 0.03)]
        rng.shuffle(along)
        pairs = list(zip(along, across, strict=True))
        return pairs if rng.random() < 0.5 else [(y, x) for x, y in pairs]
    corners = [(0.26, 0.26), (0.74, 0.26), (0.26, 0.74), (0.74, 0.74)]
    return [(near(x, 0.02), near(y, 0.02)) for x, y in rng.sample(corners, 3)]


def draw_scene(scene: Scene, size_px: int) -> Image.Image:
    """The scene as an RGB picture of size_px x size_px: things with smooth edges on a noisy, shaded background."""
    rng = np.random.default_rng(scene.noise_seed)
    picture = Image.fromarray(_background(rng, size_px))
    for thing in scene.things:
        shade = rng.normal(0, 10, 3)
        colour = tuple(int(min(max(c + s, 0), 255)) for c, s in zip(COLOURS[thing.colour], shade, strict=True))
        left, top = int((thing.x - _REACH * thing.radius) * size_px), int((thing.y - _REACH * thing.radius) * size_px)
        picture.paste(colour, (left, top), _mask(thing, size_px, left, top))
    noisy = np.asarray(picture, dtype=np.int16) + rng.integers(-8, 9, (size_px, size_px, 3), dtype=np.int16)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def _background(rng: np.random.Generator, size_px: int) -> np.ndarray:
    """A pale colour that changes across the picture in a random direction; uint8 [size, size, 3]."""
    base = rng.uniform(195, 250, 3)
    slope = rng.uniform(-22, 22, (2, 1, 1, 3))
    ramp = np.linspace(-0.5, 0.5, size_px, dtype=np.float64)
    shade: np.ndarray = base + slope[0] * ramp[:, None, None] + slope[1] * ramp[None, :, None]
    return shade.clip(0, 255).astype(np.uint8)


def _mask(thing: Thing, size_px: int, left: int, top: int) -> Image.Image:
    """How much of each pixel the thing covers, 0 to 255, in a square that begins at (left, top) and holds it."""
    scale = 4  # PIL draws without anti-aliasing: the mask is drawn larger and made smaller
    side = math.ceil(2 * _REACH * thing.radius * size_px) + 1
    mask = Image.new("L", (side * scale, side * scale), 0)
    x, y = (thing.x * size_px - left) * scale, (thing.y * size_px - top) * scale
    _draw_shape(ImageDraw.Draw(mask), thing, x, y, thing.radius * size_px * scale)
    return mask.reduce(scale)


def _draw_shape(draw: ImageDraw.ImageDraw, thing: Thing, x: float, y: float, r: float) -> None:
    if thing.shape in ("circle", "ring"):
        draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
        if thing.shape == "ring":
            hole = 0.52 * r
            draw.ellipse((x - hole, y - hole, x + hole, y + hole), fill=0)
        return
    turn = math.radians(thing.angle)
    cos, sin = math.cos(turn), math.sin(turn)
    corners = [(x + r * (cos * u - sin * v), y + r * (sin * u + cos * v)) for u, v in _OUTLINES[thing.shape]]
    draw.polygon(corners, fill=255)


def _star_outline() -> list[tuple[float, float]]:
    radii = (1.1, 0.44)
    return [(radii[i % 2] * math.sin(math.pi * i / 5), -radii[i % 2] * math.cos(math.pi * i / 5)) for i in range(10)]


def _cross_outline() -> list[tuple[float, float]]:
    arm = 0.32
    quarter = [(arm, -1.0), (arm, -arm), (1.0, -arm)]
    turned = [(-v, u) for u, v in quarter]
    return quarter + turned + [(-u, -v) for u, v in quarter] + [(-u, -v) for u, v in turned]


_OUTLINES: dict[str, list[tuple[float, float]]] = {
    "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    "triangle": [(0.0, -1.0), (1.0, 0.8), (-1.0, 0.8)],
    "star": _star_outline(),
    "cross": _cross_outline(),
}
