"""The sample of a run in a terminal."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from el4ner_ray.results import AnnotatedDocument, AnnotatedEntity
from el4ner_ray.show import _marked, _plain, sample_table
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
