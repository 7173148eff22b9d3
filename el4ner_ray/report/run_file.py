"""What a report tells of a run's own account of itself, `run.json`."""

from __future__ import annotations

from typing import Any

import msgspec

from el4ner_ray.accounting import take_stock
from el4ner_ray.errors import UsageError
from el4ner_ray.results import RUN_FILE, read_run_file
from el4ner_ray.schema import Usage
from el4ner_ray.sink import Place


class Model(msgspec.Struct, frozen=True):
    """A model of the ensemble: its name in votes, and where it comes from."""

    name: str
    source: str


class Settings(msgspec.Struct, frozen=True):
    """The part of the configuration that a reader of the annotations wants to know."""

    models: tuple[Model, ...]
    method: str
    profile: str | None = None
    prompts: str = ""
    verifier: str | None = None
    segmenter: str = ""
    language: str | None = None
    labels: dict[str, str] | None = None
    demonstrations: dict[str, Any] = {}


class Documents(msgspec.Struct, frozen=True):
    """Documents by status."""

    total: int
    ok: int
    partial: int
    failed: int


class Run(msgspec.Struct, frozen=True):
    """A run. `documents` is never None after `read_run`; times are seconds, None for a run that is not finished."""

    status: str
    engine: str
    config: Settings
    started: str = ""
    fingerprint: str = ""
    versions: dict[str, str] = {}
    documents: Documents | None = None
    sentences: int = 0
    entities: int = 0
    startup_seconds: float | None = None
    wall_seconds: float | None = None
    sentences_per_second: float | None = None
    stages: dict[str, dict[str, Usage]] = {}


def read_run(place: Place) -> Run:
    """The run in a folder; what an unfinished one has not counted yet is counted from its files.

    Raises UsageError where there is no run.json or a field of it is not what a run writes.
    """
    run = read_run_file(place.uri, Run)
    if run is None:
        raise UsageError(f"{place.uri}: no {RUN_FILE} in it; give the folder that `el4ner annotate` wrote")
    if run.documents is not None:
        return run
    accounts = take_stock(place)
    return msgspec.structs.replace(
        run,
        documents=Documents(accounts.documents, accounts.ok, accounts.partial, accounts.failed),
        sentences=accounts.summary.sentences,
        entities=accounts.summary.entities,
        stages=accounts.summary.stages,
    )
