"""The sample of a run in a terminal."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from el4ner_ray.results import AnnotatedDocument, AnnotatedEntity
from el4ner_ray.show import _marked, _plain, sample_table, strangers
from tests.unit.test_evaluation import entity_row, row, write_run


def test_a_document_controls_no_terminal_and_its_marks_are_where_its_entities_are() -> None:
    text = "One\r\nBonn\x1b[31m \x07 \x9b2J and\tRome"
    entities = tuple(
        AnnotatedEntity(text.index(name), text.index(name) + 4, name, "place", 0.5, (), (), None)
        for name in ("Bonn", "Rome")
    )
    shown = _marked(AnnotatedDocument("d", text, "ok", entities, None), {})
    assert [shown.plain[span.start : span.end] for span in shown.spans] == ["Bonn", "Rome"]
    assert not {"\x1b", "\r", "\x07", "\x9b"} & set(shown.plain)
    assert _plain("a\x1b]0;title\x07b") == "a ]0;title b"


def test_a_type_controls_no_terminal(tmp_path: Path) -> None:
    directory = write_run(tmp_path, [row("1", "Oslo", entity_row(0, 4, "Oslo", "pl\x1b]0;title\x07\u2028ace"))])
    console = Console(file=io.StringIO(), width=120, record=True)
    console.print(sample_table(directory))
    assert "Oslo pl ]0;title ace 0.50" in console.export_text()


@pytest.mark.parametrize(
    ("surfaces", "unaligned", "told"), [(50, 46, 1), (50, 45, 0), (49, 49, 0), (1000, 30, 0), (0, 60, 0), (60, 90, 0)]
)
def test_a_model_whose_names_are_nearly_never_in_the_texts_is_told_of(surfaces: int, unaligned: int, told: int) -> None:
    # Once a model that thought aloud answered `<think>` to every question, and the run said nothing of it. The last two
    # are runs that were begun when the surfaces were not counted.
    good = {"surfaces": 400, "unaligned": 10}
    stages = {"extract": {"qwen3": {"surfaces": surfaces, "unaligned": unaligned}, "b": good}, "retrieve": {}}
    told_of = list(strangers(stages))
    assert len(told_of) == told
    assert all(f"{unaligned} of the {surfaces} names that qwen3 gave" in line for line in told_of)
    split = {"surfaces": surfaces // 2, "unaligned": unaligned // 2}
    rest = {"surfaces": surfaces - surfaces // 2, "unaligned": unaligned - unaligned // 2}
    assert list(strangers({"pre_extract": {"qwen3": split}, "extract": {"qwen3": rest}})) == told_of
