"""Cycles are looked for where there can be some."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from el4ner_ray import schema
from el4ner_ray.engines import base

RECORDS = [
    kind
    for module in (schema, base)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
]


@pytest.mark.parametrize("kind", RECORDS)
def test_records_are_not_looked_through(kind: type[msgspec.Struct]) -> None:
    assert kind.__struct_config__.gc is False


def test_what_is_loaded_is_left_alone_and_new_cycles_are_freed() -> None:
    code = """
import gc, weakref
from el4ner_ray import garbage

class Node: pass

def cycle():
    node = Node()
    node.itself = node
    return weakref.ref(node)

loaded = [[] for _ in range(100_000)]
garbage.settle()
frozen = gc.get_freeze_count()
found = cycle()
assert found() is not None
kept = []
while found() is not None and len(kept) < 1_000_000:
    kept.append([])
garbage.settle()
print(frozen > len(loaded), found() is None, gc.get_freeze_count() <= frozen)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["True", "True", "True"]
