"""The colours of entity types: for each a strong one for lines and labels, and a tint behind the text.

Twelve are chosen by hand so that neighbours differ most. More are generated: of the colours on some circles of OKLCH
(https://bottosson.github.io/posts/oklab/), the next is always the one furthest from all before. Strong on tint has a
contrast of at least 4.5 in both schemes, text on tint of at least 7.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST = 48
"""Types from the 49th on have the colours of the first again."""


class Colour(NamedTuple):
    """`#rrggbb` each: on a light page, and on a dark one."""

    strong: str
    tint: str
    dark_strong: str
    dark_tint: str


_FIRST = (
    Colour("#025eb8", "#d7e8fe", "#92c1fd", "#203e64"),
    Colour("#a73301", "#ffded4", "#fea387", "#5e2d1e"),
    Colour("#037439", "#ccf1d5", "#7fd497", "#184829"),
    Colour("#7e3ea0", "#f1defe", "#d8a7f6", "#4a3159"),
    Colour("#7c5a03", "#f9e3bd", "#e4b65c", "#503905"),
    Colour("#0f6d76", "#bcf2f8", "#44d4e2", "#06464c"),
    Colour("#a52b54", "#fedce3", "#ff9cb3", "#5d2b38"),
    Colour("#574eb6", "#e2e4fe", "#b4b6fd", "#383763"),
    Colour("#516b07", "#deedc6", "#accb73", "#344412"),
    Colour("#8d4e07", "#ffe0c8", "#f6ab6b", "#59320c"),
    Colour("#066a8c", "#caecfe", "#60ccfc", "#01435b"),
    Colour("#97317c", "#ffdaf1", "#f19fd6", "#572c49"),
)
_HUES = range(0, 360, 5)
# Lightness and chroma of the four colours of each circle.
_CIRCLES = (
    ((0.33, 0.16), (0.84, 0.10), (0.90, 0.09), (0.36, 0.11)),
    ((0.45, 0.05), (0.92, 0.02), (0.80, 0.04), (0.36, 0.02)),
    ((0.27, 0.07), (0.82, 0.05), (0.94, 0.04), (0.30, 0.06)),
    ((0.42, 0.24), (0.94, 0.06), (0.76, 0.17), (0.25, 0.05)),
)
_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)

Numbers = NDArray[np.float64]


@cache
def colours(count: int) -> tuple[Colour, ...]:
    """The colours of the first `count` types, at most MOST; those of fewer types are the first of them."""
    chosen = list(_FIRST[:count])
    candidates = [_on_circle(hue, circle) for circle, hue in product(_CIRCLES, _HUES)] if count > len(_FIRST) else []
    places = np.array([_place(colour) for colour in candidates])
    nearest = np.full(len(candidates), np.inf)
    for colour in chosen:
        nearest = np.minimum(nearest, _distances(places, _place(colour))) if candidates else nearest
    while len(chosen) < min(count, MOST):
        best = int(nearest.argmax())
        chosen.append(candidates[best])
        nearest = np.minimum(nearest, _distances(places, places[best]))
    return tuple(chosen)


def css(count: int) -> str:
    """Rules for the classes `type-0` and so on: `--strong` and `--tint` of each type."""
    wanted = colours(min(count, MOST))
    light = [f".type-{n} {{ --strong: {c.strong}; --tint: {c.tint}; }}" for n, c in enumerate(wanted)]
    dark = [f".type-{n} {{ --strong: {c.dark_strong}; --tint: {c.dark_tint}; }}" for n, c in enumerate(wanted)]
    return "\n".join([*light, "@media (prefers-color-scheme: dark) {", *dark, "}"])


def _on_circle(hue: int, circle: tuple[tuple[float, float], ...]) -> Colour:
    return Colour(*(_hex(lightness, chroma, hue) for lightness, chroma in circle))


def _hex(lightness: float, chroma: float, hue: int) -> str:
    """The colour of OKLCH, its chroma lowered as far as a screen needs."""
    radians = np.radians(hue)
    for share in np.linspace(1, 0, 41):
        lab = np.array([lightness, share * chroma * np.cos(radians), share * chroma * np.sin(radians)])
        linear = np.linalg.solve(_TO_LMS, np.linalg.solve(_TO_LAB, lab) ** 3)
        if (linear >= -1e-6).all() and (linear <= 1 + 1e-6).all():
            break
    linear = linear.clip(0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return "#" + "".join(f"{round(255 * part):02x}" for part in encoded)


def _place(colour: Colour) -> Numbers:
    """(4, 3): the four colours in OKLab, where distances are alike to the eye."""
    encoded = np.array([[int(code[at : at + 2], 16) / 255 for at in (1, 3, 5)] for code in colour])
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    return np.asarray(np.cbrt(linear @ _TO_LMS.T) @ _TO_LAB.T)


def _distances(places: Numbers, place: Numbers) -> Numbers:
    """(n,): in the scheme where they are nearer, how far the strong colours and the tints lie apart, added up."""
    apart = np.linalg.norm(places - place, axis=2)
    return np.asarray(np.minimum(apart[:, 0] + apart[:, 1], apart[:, 2] + apart[:, 3]))
