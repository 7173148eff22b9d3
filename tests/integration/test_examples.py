"""The examples of the Python documentation, and spaCy: each starts engines of its own in one Ray session."""

from __future__ import annotations

import asyncio
import doctest
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import ray.data
import spacy
from spacy.tokens import Doc

import el4ner_ray.dataset
import el4ner_ray.ensemble
from el4ner_ray import Ensemble, JobConfig, annotate, cluster
from el4ner_ray.errors import FatalError, UsageError
from tests.conftest import ROOT, until
from tests.processes import marked, started

pytestmark = pytest.mark.timeout(1200)

SETTINGS: dict[str, Any] = {
    "pool": str(ROOT / "examples" / "pool.jsonl"),
    "profile": "fake",
    "fields": {"demonstrations": {"pool_spans": "gold"}},
}
# Beside names, the scripted engine finds "Anna Karlsson" in the middle of what the tokenizer takes for one word.
TEXTS = ["Anna Karlsson met Ben in Oslo.", "", " \n", "王小明在北京大学工作。", "👩‍👩‍👧 Mail from Carl\u3000Dora!"]


def test_a_script_that_closes_nothing_leaves_no_process(tmp_path: Path) -> None:
    mark = str(tmp_path)
    code = (
        f"from el4ner_ray import Ensemble, JobConfig\nconfig = JobConfig.load(profile='fake', **{SETTINGS['fields']})\n"
    )
    code += f"print(Ensemble(config).start().annotate(['Anna met Ben.'], {SETTINGS['pool']!r}))\n"
    code += f"from tests.processes import marked\nprint(len(marked({mark!r})))\n"
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    with started([sys.executable, "-c", code], mark, **pipes) as process:
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
        answer, running = out.splitlines()
        assert answer == "[<0: 'Anna met Ben.' ['Anna' date 0.80, 'Ben' person 0.80]>]"
        assert int(running) > 5
        assert "Traceback" not in err
        # Ray's own agents follow its raylet within seconds.
        _, alive = psutil.wait_procs(marked(mark), timeout=30)
        assert not alive


def test_closing_after_the_session_has_ended_starts_no_other() -> None:
    with cluster.session():
        ensemble = Ensemble(JobConfig.load(profile="fake")).start()
    assert not ray.is_initialized()
    ensemble.close()
    assert not ray.is_initialized()


def test_closing_while_another_thread_annotates_ends_that() -> None:
    config = JobConfig.load(
        profile="fake", fake={"latency_ms": 15_000}, demonstrations={"k": 1, "pool_spans": "gold", "tagger": "none"}
    )
    pool = [{"text": "Anna flew to Oslo.", "entities": [{"start": 0, "end": 4, "type": "person"}]}]
    with cluster.session(), ThreadPoolExecutor(1) as thread:
        ensemble = Ensemble(config).start()
        waiting = thread.submit(ensemble.annotate, ["Ben left Rome."], pool)
        until(lambda: ensemble._loop is not None and bool(asyncio.all_tasks(ensemble._loop)))
        ensemble.close()
        with pytest.raises(FatalError, match="was closed while it annotated"):
            waiting.result(30)


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    with cluster.session():
        yield


@pytest.mark.usefixtures("session")
@pytest.mark.parametrize("module", [el4ner_ray.ensemble, el4ner_ray.dataset])
def test_docstrings(module: Any) -> None:
    failed, tried = doctest.testmod(module)
    assert tried > 4
    assert failed == 0


def without_ray_messages(printed: str) -> str:
    """What Ray's raylet says (that many processes were started, for example) it prints among a program's own lines."""
    return "".join(line for line in printed.splitlines(keepends=True) if "(raylet)" not in line)


@pytest.mark.usefixtures("session")
def test_page(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The blocks of docs/python.md, one after another: what one prints is what the next shows."""
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    printed = ""
    page = (ROOT / "docs" / "python.md").read_text("utf-8")
    try:
        for language, block in re.findall(r"^```(python|text)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
            if language == "python":
                assert not printed, "the page does not show this"
                exec(block, names)
                printed = without_ray_messages(capsys.readouterr().out)
            else:
                assert printed == block
                printed = ""
    finally:
        names["ensemble"].close()


@pytest.mark.usefixtures("session")
def test_the_calibrated_method() -> None:
    config = JobConfig.load(profile="fake", method="calibrated", demonstrations={"pool_spans": "gold"})
    with Ensemble(config) as ensemble:
        [document] = ensemble.annotate([TEXTS[0]], SETTINGS["pool"])
        rows = annotate(ray.data.from_items([{"id": 1, "text": TEXTS[0]}]), ensemble, SETTINGS["pool"]).take_all()
    candidates = {(entity.start, entity.end, entity.score) for entity in (*document.entities, *document.dropped)}
    assert len({score for _, _, score in candidates}) > 1
    assert candidates == {
        (e["start"], e["end"], e["score"]) for row in rows for e in (*row["entities"], *row["dropped"])
    }


@pytest.fixture
def pipeline(session: None) -> Iterator[Callable[..., Any]]:
    made = []

    def pipe(language: str = "en", **settings: Any) -> Any:
        nlp = spacy.blank(language)
        made.append(nlp.add_pipe("el4ner", config=SETTINGS | settings))
        return nlp

    yield pipe
    for component in made:
        component.close()


def spans_of(doc: Doc) -> list[tuple[str, str, float]]:
    group = doc.spans["el4ner"]
    return [(span.text, span.label_, score) for span, score in zip(group, group.attrs["scores"], strict=True)]


def test_spans_with_scores_in_order(pipeline: Callable[..., Any]) -> None:
    nlp = pipeline()
    docs = list(nlp.pipe(TEXTS * 30))
    assert [doc.text for doc in docs] == TEXTS * 30
    assert all(spans_of(docs[i]) == spans_of(docs[i % len(TEXTS)]) for i in range(len(docs)))
    group = docs[0].spans["el4ner"]
    assert {"Ben", "Oslo"} <= {span.text for span in group}
    assert [docs[0].text[start:end] for start, end in group.attrs["offsets"]] == [span.text for span in group]
    assert {len(values) for key, values in group.attrs.items() if key not in ("status", "error")} == {len(group)}
    assert group.attrs["status"] == "ok"
    assert spans_of(nlp(TEXTS[0])) == spans_of(docs[0])
    assert not docs[1].spans["el4ner"]
    restored = Doc(nlp.vocab).from_bytes(docs[0].to_bytes())
    assert spans_of(restored) == spans_of(docs[0])
    assert restored.spans["el4ner"].attrs == group.attrs


@pytest.mark.parametrize(
    ("mode", "texts", "fate"),
    [
        ("expand", {"x-Ben/Anna-y"}, "widened"),
        ("contract", set[str](), "cut"),
        ("strict", set[str](), "left out"),
    ],
)
def test_entities_inside_tokens_are_counted_and_told(
    pipeline: Callable[..., Any], caplog: pytest.LogCaptureFixture, mode: str, texts: set[str], fate: str
) -> None:
    nlp = pipeline(alignment_mode=mode)
    nlp.tokenizer = spacy.tokenizer.Tokenizer(nlp.vocab)  # splits at white space alone
    with caplog.at_level(logging.WARNING, "el4ner_ray"):
        doc = nlp("x-Ben/Anna-y")
    assert {text for text, _, _ in spans_of(doc)} == texts
    component = nlp.get_pipe("el4ner")
    assert component.misaligned > 0
    assert f"{component.misaligned} of {component.misaligned} entities begin or end inside a token" in caplog.text
    assert fate in caplog.text


def test_a_language_without_a_tagger(pipeline: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    nlp = pipeline("am")
    doc = nlp("አበበ ከ Anna ጋር ወደ ጎንደር ሄደ። Ben በአዲስ አበባ ይኖራል።")
    assert {"Anna", "Ben"} <= {span.text for span in doc.spans["el4ner"]}
    assert nlp.get_pipe("el4ner").ensemble.config.demonstrations.tagger == "none"
    assert "el4ner: language am: no tagger, so all spans of a sentence weigh the same" in capsys.readouterr().err


def test_settings(pipeline: Callable[..., Any]) -> None:
    assert pipeline("de").get_pipe("el4ner").ensemble.config.language == "de"
    for settings, named in (({"pool": None}, "pool"), ({"alignment_mode": "guess"}, "strict, contract, expand")):
        with pytest.raises(UsageError, match=named):
            pipeline(**settings)
