"""Lines about documents say in fields what they are about, and nothing of what a document holds."""

from __future__ import annotations

import asyncio
import json
import logging

import pyarrow as pa
import pytest
from ray._common.formatters import JSONFormatter

from el4ner_ray import logs, schema
from el4ner_ray.config import load
from el4ner_ray.engines.base import Completion, Request
from el4ner_ray.schema import Failure
from el4ner_ray.stages.pre_extract import PreExtract
from el4ner_ray.stages.segment import Segment

SECRET = "Anna met Ben"
FIELDS = ("document", "documents", "part", "stage", "model", "kind", "failures")


def fields(record: logging.LogRecord) -> dict[str, object]:
    """The fields of a line as Ray's workers write them."""
    line = json.loads(JSONFormatter().format(record))
    return {name: line[name] for name in FIELDS if name in line}


class _Answers:
    """An ensemble that gives every request the same answer."""

    def __init__(self, completion: Completion | Exception) -> None:
        self._completion = completion

    async def ask(self, model: str, requests: list[Request], session: str) -> list[Completion]:
        if isinstance(self._completion, Exception):
            raise self._completion
        return [self._completion] * len(requests)


def ask(completion: Completion | Exception) -> None:
    config = load(profile="fake")
    steps = [(Segment, (config,)), (PreExtract, (config, {"person": ""}, _Answers(completion)))]
    table = pa.Table.from_pydict(
        {"doc_id": ["d\n1", "d2"], "part": [0, 3], "text_start": [0, 9], "text": [f"{SECRET}.", " "]}
        | {"error": [None, None], "el4ner.batch": [7, 7]},
        schema.PART_SCHEMA,
    )

    async def run() -> None:
        loaded = table
        for stage, arguments in steps:
            loaded = await stage(*arguments).annotate(loaded)

    asyncio.run(run())


def test_failed_requests_are_told_by_document_stage_and_model(caplog: pytest.LogCaptureFixture) -> None:
    ask(Completion("", error=f"no answer to {SECRET}"))
    expected = {"document": "d\n1", "part": 0, "stage": "pre_extract", "kind": "engine", "failures": 1}
    assert [fields(record) for record in caplog.records] == [
        expected | {"model": model} for model in ("fake-a", "fake-b", "fake-c")
    ]
    assert SECRET not in caplog.text
    assert "d\n1" not in caplog.text


def test_answers_that_cannot_be_read_are_told_to_who_asks_for_it(caplog: pytest.LogCaptureFixture) -> None:
    ask(Completion(f"Sentence: {SECRET}"))
    assert not caplog.records
    with caplog.at_level(logging.INFO, "el4ner_ray"):
        ask(Completion(f"Sentence: {SECRET}"))
    assert [record.levelname for record in caplog.records] == ["INFO"] * 3
    assert all(fields(record)["kind"] == "parse" for record in caplog.records)
    assert SECRET not in caplog.text


def test_a_stage_that_ends_names_the_documents_of_its_batch(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(LookupError, match=SECRET):
        ask(LookupError(SECRET))
    (record,) = caplog.records
    assert fields(record) == {"documents": ["d\n1", "d2"], "stage": "pre_extract"}
    assert SECRET not in caplog.text


def test_fields_are_those_of_the_task_that_logs(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("el4ner_ray.test")

    async def tell(stage: str) -> None:
        with logs.about(stage=stage):
            await asyncio.sleep(0)
            logs.bound(logger, model="m").warning("again")

    async def both() -> None:
        await asyncio.gather(tell("extract"), tell("classify"))

    asyncio.run(both())
    logs.bound(logger).warning("after")
    of_lines = [fields(record) for record in caplog.records]
    assert of_lines == [{"stage": "extract", "model": "m"}, {"stage": "classify", "model": "m"}, {}]


def test_an_unread_document_has_no_model(caplog: pytest.LogCaptureFixture) -> None:
    logs.tell_failures("d1", 0, [Failure("input", "read", "", f"in.jsonl:3: {SECRET}")])
    (record,) = caplog.records
    assert fields(record) == {"document": "d1", "part": 0, "stage": "read", "kind": "input", "failures": 1}
    assert SECRET not in caplog.text


@pytest.mark.parametrize("level", ["ERROR", "WARNING", "INFO"])
def test_workers_log_from_the_drivers_level_on(level: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(level, "el4ner_ray"):
        assert logs.of_workers().log_level == level
