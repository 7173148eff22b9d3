"""Log lines about documents: which one, which stage and which model stand in fields, for a collector to filter by.

Ids never stand in a message, since a hostile one would steer a terminal or forge a line, and reasons neither, since
they may quote a document or an answer: both stand in the error rows of the output.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

import ray

from el4ner_ray.schema import Failure

Logger = logging.LoggerAdapter[logging.Logger]

_logger = logging.getLogger(__name__)
_FIELDS: ContextVar[Mapping[str, object]] = ContextVar("el4ner_fields", default=MappingProxyType({}))


@contextmanager
def about(**fields: object) -> Iterator[None]:
    """Give these fields to the `bound` loggers that are made in the block. Their values must be fit for JSON."""
    token = _FIELDS.set({**_FIELDS.get(), **fields})
    try:
        yield
    finally:
        _FIELDS.reset(token)


def bound(logger: logging.Logger, **fields: object) -> Logger:
    """The logger, its lines with these fields and those of the enclosing `about`."""
    return logging.LoggerAdapter(logger, {**_FIELDS.get(), **fields})


def tell_failures(document: str, part: int, failures: Sequence[Failure]) -> None:
    """One line for each stage, model and kind of failure of a document's part; answers that were not read, at INFO."""
    for (stage, model, kind), number in Counter((f.stage, f.model, f.kind) for f in failures).items():
        fields = {"document": document, "part": part, "stage": stage, "kind": kind, "failures": number}
        line = bound(_logger, **(fields | {"model": model} if model else fields))
        line.log(logging.INFO if kind == "parse" else logging.WARNING, _MESSAGES[kind])


_MESSAGES = {
    "input": "the document could not be read",
    "parse": "answers about the document could not be read, or only in part",
    "engine": "requests about the document found no answer",
}


def of_workers() -> ray.LoggingConfig:
    """How Ray's workers log for this driver: JSON lines, from the level of this process on."""
    level = logging.getLogger("el4ner_ray").getEffectiveLevel()
    return ray.LoggingConfig(
        encoding="JSON", log_level=logging.getLevelName(level), additional_log_standard_attrs=["name"]
    )
