"""Bins of equal width over [0, 1], by which scores are counted and drawn."""

from __future__ import annotations


def bin_of(score: float, bins: int) -> int:
    """The number of the bin, from 0, that a score in [0, 1] falls into; a bin's lower bound is in it, 1 in the last.

    The output has scores of 32 bits: to six digits, so that 0.7 of them lies in the bin that begins at 0.7.
    """
    return min(int(round(score, 6) * bins), bins - 1)
