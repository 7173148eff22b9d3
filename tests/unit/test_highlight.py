"""What a notebook shows of annotated documents."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from el4ner_ray.report.highlight import SHOWN_DOCUMENTS
from el4ner_ray.results import AnnotatedDocument, AnnotatedDocuments, AnnotatedEntity

PAYLOADS = [
    "<script>alert(1)</script>",
    "</style><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}",
    '" onclick="alert(1)',
    "&amp;",
]


class Shown(HTMLParser):
    """The text of the element apart from labels and style, its labels, and all tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.labels, self.tags, self.titles = "", [""], list[str](), list[str]()
        self._open: list[tuple[str, str]] = []
        self.feed(html)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        self.tags.append(tag)
        self.titles += filter(None, [names.get("title")])
        assert not {name for name in names if name.startswith("on")}
        self._open.append((tag, names.get("class") or ""))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        tag, classes = self._open[-1]
        if classes.startswith("label"):
            self.labels.append(data.removeprefix("\u2060"))
        elif tag != "style":
            self.text += data


def document(text: str, spans: list[tuple[int, int, str]] = (), **fields: object) -> AnnotatedDocument:  # type: ignore[assignment]
    entities = tuple(AnnotatedEntity(s, e, text[s:e], type_, 0.5, (), ("a",), True) for s, e, type_ in spans)
    given: dict[str, object] = {"doc_id": "d", "text": text, "status": "ok", "entities": entities, "error": None}
    return AnnotatedDocument(**given | fields)  # type: ignore[arg-type]


def test_nested_entities_lie_in_each_other() -> None:
    html = document("University of Oslo", [(0, 18, "org"), (14, 18, "place")])._repr_html_()
    shown = Shown(html)
    assert shown.text == "University of Oslo"
    assert shown.labels[1:] == ["place", "org"]
    assert html.index("over lane-1 type-0 begins") < html.index("over lane-0 type-1 begins")
    assert shown.titles[0] == "University of Oslo: org 0.50, [0, 18), found by a"


def test_jupyter_finds_no_formula() -> None:
    # It sets as one what stands between two dollar signs, or \\( and \\), of one element.
    html = document("for $31 a share, or $135 \\(a\\)", [(5, 7, "price")])._repr_html_()
    assert html.count("<span>$</span>") == 2
    assert html.count("<span>\\</span>") == 2
    assert Shown(html).text == "for $31 a share, or $135 \\(a\\)"


@pytest.mark.parametrize("payload", PAYLOADS)
def test_what_a_document_holds_is_text(payload: str) -> None:
    shown = Shown(document(payload, [(0, len(payload), payload)])._repr_html_())
    assert shown.text == payload
    assert shown.labels[1:] == [payload]
    assert set(shown.tags) == {"div", "style", "p", "span"}
    failed = Shown(document("", status="failed", error=payload)._repr_html_())
    assert failed.text == f"failed: {payload}"


@given(st.text(min_size=1, max_size=60).filter(lambda text: "\r" not in text and "\0" not in text), st.data())
def test_every_character_is_shown_once(text: str, data: st.DataObject) -> None:
    ends = st.integers(0, len(text))
    spans = data.draw(st.lists(st.tuples(ends, ends, st.sampled_from("xyz")), max_size=6))
    spans = [(start, end, type_) for start, end, type_ in spans if start < end]
    shown = Shown(document(text, spans)._repr_html_())
    assert shown.text == text
    assert sorted(shown.labels[1:]) == sorted(type_ for _, _, type_ in spans)


def test_long_lists_are_cut_and_say_so() -> None:
    shown = Shown(AnnotatedDocuments([document("Oslo.")] * (SHOWN_DOCUMENTS + 3))._repr_html_())
    assert shown.text == "Oslo." * SHOWN_DOCUMENTS + "and 3 more"


def test_plain() -> None:
    assert repr(document("In Oslo.", [(3, 7, "place")])) == "<d: 'In Oslo.' ['Oslo' place 0.50]>"
    assert repr(document("x" * 99, status="partial", error="late")) == f"<d: partial: late; '{'x' * 59}…' []>"
