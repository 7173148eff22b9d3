"""What a scenario measures, and what is asked of it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec


class Figure(msgspec.Struct, frozen=True):
    """A number that was measured some times in one run.

    Attributes:
        name: what it is; figures of one name form a curve over `at`.
        at: the size of the workload that it belongs to, None for the scenario as a whole.
        values: every measurement, in the order of the run.
    """

    name: str
    unit: str
    values: tuple[float, ...]
    at: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)


class Floor(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A bound on the median of a figure. A figure that was not measured misses it."""

    figure: str
    at: float | None = None
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("a floor needs either at_least or at_most")

    def met(self, figures: Sequence[Figure]) -> bool:
        """Whether the figures keep it."""
        found = self.of(figures)
        if found is None:
            return False
        if self.at_least is not None:
            return found.median >= self.at_least
        return self.at_most is not None and found.median <= self.at_most

    def of(self, figures: Sequence[Figure]) -> Figure | None:
        """The figure that it is about."""
        return next((f for f in figures if (f.name, f.at) == (self.figure, self.at)), None)

    def __str__(self) -> str:
        return f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"


def ratios(above: Sequence[float], below: Sequence[float]) -> tuple[float, ...]:
    """Measurement by measurement, so that what slowed both in one repetition cancels out."""
    return tuple(a / b for a, b in zip(above, below, strict=True))
