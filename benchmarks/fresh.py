"""Measurements in a process of their own, with which memory, environment and loaded models end."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def in_fresh_process(measure: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """The result of a function at the top of its module; arguments and result are pickled."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=spawn) as pool:
        return pool.submit(measure, *arguments, **named).result()
