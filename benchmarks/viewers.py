"""The report beside displaCy and langextract's visualisation: the same texts and entities in the same browser.

    python -m benchmarks.viewers [--sentences 20000] [--langextract PYTHON] [--out DIR]

A run with scripted engines is written as a page of each. A headless Chromium opens each page, and scrolls it a screen
at a time, 200 times or to its end. Then each shows texts of which every field is a script that should not run, and
texts with nested and overlapping entities, of which no character may be lost. langextract is not among this project's
requirements: PYTHON is an interpreter that has it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import spacy
import typer
from rich.console import Console
from rich.table import Table
from spacy import displacy

from benchmarks import scripted
from el4ner_ray.report.build import write_report
from el4ner_ray.results import AnnotatedDocument, read_annotations
from tests.browser import Browser
from tests.unit.test_report import HOSTILE, document, entity, write_run

_SENTENCES_A_DOCUMENT = 8
_CONFIG = {"demonstrations": {"pool_spans": "gold", "tagger": "none"}, "limits": {"batch_documents": 32}}

Write = Callable[[Path, Path], None]
"""From the folder of a run to an HTML file."""

# Nested, and overlapping.
_MARKED = (
    ("The Bank of Oslo opened.", [(4, 16, "company"), (12, 16, "place")]),
    ("Anna Berg Holm left.", [(0, 9, "person"), (5, 14, "person")]),
)

_LANGEXTRACT = """
import json, sys
import langextract as lx
text, entities = json.load(sys.stdin)
extractions = [
    lx.data.Extraction(t, text[s:e], char_interval=lx.data.CharInterval(s, e), attributes={"score": str(score)})
    for s, e, t, score in entities
]
page = lx.visualize(lx.data.AnnotatedDocument(text=text, extractions=extractions))
sys.stdout.write(page if isinstance(page, str) else page.data)
"""

# The element that scrolls, a screen a frame, to its end or for so many frames; milliseconds of each frame.
_SCROLL = """
const done = arguments[0], box = document.querySelector("#textWindow") ?? document.scrollingElement;
const frames = [];
let last = null;
requestAnimationFrame(function step(now) {
    if (last !== null) frames.push(now - last);
    last = now;
    const before = box.scrollTop;
    box.scrollTop += box.clientHeight;
    box.scrollTop === before || frames.length > 200 ? done(frames) : requestAnimationFrame(step);
});
"""
_PAINTED = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done(1)))"
# What stands in the text without the names of types.
_TEXTS = """
const holder = document.querySelector("#passages, .entities, .spans, #textWindow").cloneNode(true);
for (const name of holder.querySelectorAll(".label, mark > span, .spans span > span")) name.remove();
return holder.textContent;
"""


def by_displacy(run: Path, page: Path) -> None:
    """All documents on one page, as `displacy.render(..., page=True)` makes it."""
    given = [
        {
            "text": text.text,
            "title": text.doc_id,
            "ents": [{"start": e.start, "end": e.end, "label": e.type} for e in text.entities],
        }
        for text in documents(run)
    ]
    page.write_text(displacy.render(given, style="ent", manual=True, page=True, jupyter=False), "utf-8")


def by_displacy_spans(run: Path, page: Path) -> None:
    """The same in its style for spans that overlap, which shows whole tokens."""
    tokenizer, given = spacy.blank("en"), []
    for text in documents(run):
        doc = tokenizer(text.text)
        doc.spans["sc"] = [doc.char_span(e.start, e.end, e.type, alignment_mode="expand") for e in text.entities]
        given.append(doc)
    page.write_text(displacy.render(given, style="span", page=True, jupyter=False), "utf-8")


def by_langextract(python: Path, run: Path, page: Path) -> None:
    """All documents as one, which is what it shows."""
    text, entities = "", []
    for document_ in documents(run):
        entities += [(len(text) + e.start, len(text) + e.end, e.type, e.score) for e in document_.entities]
        text += document_.text + "\n\n"
    done = subprocess.run(
        [python, "-c", _LANGEXTRACT], input=json.dumps([text, entities]), capture_output=True, text=True, check=True
    )
    page.write_text(f"<!doctype html><meta charset='utf-8'>{done.stdout}", "utf-8")


def by_report(run: Path, page: Path) -> None:
    """`el4ner report` with every document in it."""
    write_report(str(run), page, sample=sys.maxsize)


def documents(run: Path) -> list[AnnotatedDocument]:
    """All documents of a run."""
    return list(read_annotations(str(run)))


def looked_at(browser: Browser, page: Path) -> dict[str, Any]:
    """Opened and scrolled: megabytes, seconds until painted, elements, milliseconds from screen to screen."""
    began = time.perf_counter()
    browser.open(page)
    browser.driver.execute_async_script(_PAINTED)
    opened = time.perf_counter() - began
    frames = browser.driver.execute_async_script(_SCROLL) or [0.0]
    return {
        "MB": page.stat().st_size / 1e6,
        "s until painted": opened,
        "elements": browser.script("return document.querySelectorAll('*').length"),
        "screens scrolled": len(frames),
        "ms a screen, median": statistics.median(frames),
        "ms a screen, most": max(frames),
    }


def scripts_that_ran(browser: Browser, write: Write, scratch: Path) -> int:
    """Of the payloads, each the id, text, surface and type of a page of its own, how many ran."""
    ran = 0
    for number, payload in enumerate(HOSTILE):
        rows = [document(payload, f"{payload} in Oslo", [entity(payload, 0, len(payload), payload)])]
        write(write_run(scratch / f"hostile-{number}", rows), scratch / "hostile.html")
        browser.open(scratch / "hostile.html")
        browser.driver.execute_async_script(_PAINTED)
        ran += browser.script("return typeof ran !== 'undefined'")
    return ran


def texts_kept(browser: Browser, write: Write, scratch: Path) -> int:
    """Of the texts with entities that lie in or across each other, how many are shown as they are."""
    kept = 0
    for number, (text, marked) in enumerate(_MARKED):
        rows = [document("1", text, [entity(text, start, end, type_) for start, end, type_ in marked])]
        write(write_run(scratch / f"marked-{number}", rows), scratch / "marked.html")
        browser.open(scratch / "marked.html")
        kept += text in " ".join(browser.script(_TEXTS).split())
    return kept


def scripted_run(scratch: Path, sentences: int) -> Path:
    """The output of the pipeline with scripted engines."""
    names = scripted.names(1000)
    index = scripted.build_index(scratch, scripted.write_pool(scratch / "pool.jsonl", 500, names), _CONFIG)
    count = sentences // _SENTENCES_A_DOCUMENT
    corpus = scripted.write_corpus(scratch / "corpus.jsonl", count, _SENTENCES_A_DOCUMENT, names)
    return scripted.annotate(scratch, corpus, index, "run", _CONFIG).output


def main(
    sentences: Annotated[int, typer.Option(help="In documents of eight.")] = 20_000,
    langextract: Annotated[Path | None, typer.Option(help="A Python interpreter with langextract.")] = None,
    repeats: Annotated[int, typer.Option(help="Times that each page is opened; the median counts.")] = 3,
    out: Annotated[Path, typer.Option(help="Folder for pages and results.json.")] = Path("out/viewers"),
) -> None:
    """Write the pages, look at them, print a table."""
    out.mkdir(parents=True, exist_ok=True)
    run = scripted_run(out.absolute(), sentences)
    writers: dict[str, Write] = {"report": by_report, "displaCy": by_displacy, "displaCy, spans": by_displacy_spans}
    if langextract:
        writers["langextract"] = partial(by_langextract, langextract)
    browser, results = Browser(), {}
    browser.driver.set_script_timeout(600)
    try:
        for name, write in writers.items():
            page = out.absolute() / f"{name}.html"
            began = time.perf_counter()
            write(run, page)
            written = time.perf_counter() - began
            looks = [looked_at(browser, page) for _ in range(repeats)]
            results[name] = {
                "s to write": written,
                **{what: statistics.median(look[what] for look in looks) for what in looks[0]},
                f"scripts that ran, of {len(HOSTILE)}": scripts_that_ran(browser, write, out.absolute()),
                f"texts kept, of {len(_MARKED)}": texts_kept(browser, write, out.absolute()),
            }
            (out / "results.json").write_text(json.dumps(results, indent=2), "utf-8")
    finally:
        browser.driver.quit()
    table = Table("", *results)
    for what in results["report"]:
        table.add_row(what, *(f"{result[what]:,.3g}" for result in results.values()))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
