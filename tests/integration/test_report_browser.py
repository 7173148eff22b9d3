"""A report in a real browser: nothing in it runs but its own script, and that does what a reader asks of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from el4ner_ray.report.build import write_report
from tests.browser import CHROMIUM, DRIVER, Browser
from tests.conftest import write_jsonl
from tests.unit.test_report import HOSTILE, MODELS, document, entity, run_json, write_run

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium and chromedriver on this machine")

# What a payload that ran would have left behind, beside `ran`.
FOREIGN = "img, iframe, object, embed, link, base, audio, video, [onload], [onerror], [onfocus], [onmouseover]"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    browser = Browser()
    yield browser
    browser.driver.quit()


@pytest.fixture
def browser(chromium: Browser) -> Browser:
    chromium.size(1280, 900)
    return chromium


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report in which every field of every document is a payload."""
    folder = tmp_path_factory.mktemp("hostile")
    rows = [
        document(
            payload,
            f"{payload} {'x' * 300}",
            [entity(payload, 0, len(payload), payload, votes=[{"model": payload, "type": payload}])],
            error=payload,
            status="partial",
        )
        for payload in HOSTILE
    ]
    errors = [dict.fromkeys(("doc_id", "kind", "stage", "model", "reason", "raw"), payload) for payload in HOSTILE]
    run = run_json(rows)
    config = run["config"] | {"models": [{"name": payload, "source": payload} for payload in HOSTILE]}
    write_run(folder / "run", rows, errors, config=config, stages=dict.fromkeys(HOSTILE, run["stages"]["extract"]))
    gold = [
        {
            "id": row["doc_id"],
            "text": row["text"],
            "entities": [{"start": 0, "end": len(row["doc_id"]), "type": row["doc_id"]}],
        }
        for row in rows
    ]
    write_report(str(folder / "run"), folder / "report.html", str(write_jsonl(folder / "gold.jsonl", gold)))
    return folder / "report.html"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """45 documents: places with falling scores, some persons, one failed document, compared with gold."""
    folder = tmp_path_factory.mktemp("small")
    rows = []
    for number in range(44):
        text = f"Oslo met Anna Berg of 👩‍👩‍👧 in 北京 on day {number}"
        entities = [entity(text, 0, 4, "place", score=round(1 - number / 50, 2))]
        if number % 4 == 0:
            entities += [entity(text, 9, 18, "person", score=0.2), entity(text, 14, 18, "place", score=0.1)]
        rows.append(document(f"doc-{number}", text, entities))
    rows.append(document("doc-44", "", status="failed", error="read: not UTF-8"))
    gold = [
        {"id": row["doc_id"], "text": row["text"], "entities": [{"start": 0, "end": 4, "type": "place"}]}
        for row in rows
        if row["text"]
    ]
    gold[3]["entities"][0]["type"] = "person"  # type: ignore[index]
    gold[5]["entities"].append({"start": 9, "end": 18, "type": "person"})  # type: ignore[attr-defined]
    write_run(folder / "run", rows)
    write_report(str(folder / "run"), folder / "report.html", str(write_jsonl(folder / "gold.jsonl", gold)))
    return folder / "report.html"


def test_payloads_do_not_run(browser: Browser, hostile: Path) -> None:
    browser.open(hostile)
    assert len(browser.all("#passages .passage")) == len(HOSTILE) >= 10
    for view in ("entities", "quality", "models", "run", "texts"):
        browser.one(f".views a[href='#{view}']").click()
        browser.until(lambda view=view: browser.one(f"#view-{view}").is_displayed())
        assert not browser.all(FOREIGN)
    for piece in browser.all("#passages .mark[tabindex]"):
        browser.script("arguments = []; hideCard()")
        piece.send_keys(Keys.ENTER)
        browser.until(lambda: browser.one("#card").is_displayed())
        assert not browser.all(FOREIGN)
    assert browser.script("return [window.ran, typeof ran]") == [None, "undefined"]
    assert sorted(browser.texts(".passage h3")) == sorted(HOSTILE)
    assert browser.script("return document.scripts.length") == 2
    assert browser.driver.get_log("browser") == []


def test_the_policy_holds(browser: Browser, hostile: Path) -> None:
    browser.open(hostile)
    attempt = """
        const script = document.createElement("script");
        script.textContent = "window.ran = 1";
        document.body.append(script);
        const holder = document.createElement("div");
        holder.innerHTML = "<img src=x onerror='window.ran = 1'>";
        document.body.append(holder);
        return window.ran;
    """
    assert browser.script("return performance.getEntriesByType('resource').length") == 0
    assert browser.script(attempt) is None
    browser.until(lambda: browser.driver.get_log("browser"))
    assert browser.script("return window.ran") is None


@pytest.mark.parametrize("width", [390, 1280])
def test_no_view_is_wider_than_the_screen(browser: Browser, hostile: Path, width: int) -> None:
    browser.size(width, 844)
    browser.open(hostile)
    for view in ("texts", "entities", "quality", "models", "run"):
        browser.script(f"location.hash = {view!r}")
        browser.until(lambda view=view: browser.one(f"#view-{view}").is_displayed())
        assert browser.script("return document.documentElement.scrollWidth") <= width, view


def test_paging(browser: Browser, small: Path) -> None:
    browser.open(small)
    assert len(browser.all(".passage")) == 20
    assert browser.texts(".passage h3")[:3] == ["doc-0", "doc-1", "doc-2"]
    assert not browser.one("#pager-above .back").is_enabled()
    browser.one("#pager-below .next").click()
    assert browser.texts(".passage h3")[0] == "doc-20"
    browser.until(lambda: browser.script("return document.querySelector('.passage').getBoundingClientRect().top") > 0)
    field = browser.one("#pager-above .page")
    field.clear()
    field.send_keys("9", Keys.ENTER)
    assert browser.texts(".passage h3") == [f"doc-{number}" for number in range(40, 45)]
    assert field.get_attribute("value") == "3"
    assert not browser.one("#pager-above .next").is_enabled()
    assert "read: not UTF-8" in browser.one("#passages").text


def test_the_text_is_what_it_was(browser: Browser, small: Path) -> None:
    browser.open(small)
    browser.one("#labels").click()
    shown = browser.texts(".passage .text")
    assert shown == [f"Oslo met Anna Berg of 👩‍👩‍👧 in 北京 on day {number}" for number in range(20)]


def found(browser: Browser) -> str:
    return browser.one("#pager-above .found").text


def test_filters(browser: Browser, small: Path) -> None:
    browser.open(small)
    assert found(browser) == "45 of 45 texts"
    person, _ = browser.all("#legend button")
    person.click()
    # 11 with a person, one where the gold says so of a place, one person missed.
    assert found(browser) == "13 of 45 texts"
    assert person.get_attribute("aria-pressed") == "true"
    person.click()
    browser.script("const m = byId('minimum'); m.value = 0.9; m.dispatchEvent(new Event('input'))")
    # Scores from 1 to 0.9, and what the run missed, which has none.
    assert found(browser) == "6 of 45 texts"
    assert browser.one("#minimum-shown").text == "0.90"
    browser.one("#clear").click()
    browser.one("#errors").click()
    assert found(browser) == "13 of 45 texts"
    browser.one("#clear").click()
    Select(browser.one("#status")).select_by_value("failed")
    assert browser.texts(".passage h3") == ["doc-44"]
    browser.one("#clear").click()
    browser.one("#search").send_keys("北京 ON DAY 7")
    assert browser.texts(".passage h3") == ["doc-7"]
    assert browser.script("return [...CSS.highlights.get('found')].map(String)") == ["北京 on day 7"]
    browser.one("#clear").click()
    browser.one("#search").send_keys("doc-13")
    assert browser.texts(".passage h3") == ["doc-13"]
    browser.one("#search").send_keys("?")
    assert found(browser) == "0 of 45 texts"


def test_search_finds_accents_however_they_are_written(browser: Browser, tmp_path: Path) -> None:
    one, two = "Caf\u00e9 Zo\u00eb", "Cafe\u0301 Zoe\u0308 \u0130"
    rows = [document("one", one), document("two", two), document("none", "Cafe Zoe"), document("e\u0301", "")]
    write_run(tmp_path / "run", rows)
    write_report(str(tmp_path / "run"), tmp_path / "report.html")
    browser.open(tmp_path / "report.html")
    for query, ids, painted in (
        ("CAF\u00c9", ["one", "two"], "Caf\u00e9"),
        ("zoe\u0308", ["one", "two"], "Zo\u00eb"),
        ("\u00e9", ["e\u0301", "one", "two"], "\u00e9"),
    ):
        browser.script(f"const s = byId('search'); s.value = {query!r}; s.dispatchEvent(new Event('input'))")
        assert sorted(browser.texts(".passage h3")) == ids
        # Where a letter is two characters, what is found is shown and not painted: offsets would lie.
        assert browser.script("return [...CSS.highlights.get('found')].map(String)") == [painted]


def test_surfaces_lead_to_their_texts(browser: Browser, small: Path) -> None:
    browser.open(small)
    browser.one(".views a[href='#entities']").click()
    browser.one("[data-search='Anna Berg']").click()
    browser.until(lambda: browser.one("#view-texts").is_displayed())
    assert found(browser) == "44 of 45 texts"
    browser.one(".views a[href='#entities']").click()
    browser.one("[data-only='0']").click()
    browser.until(lambda: browser.one("#view-texts").is_displayed())
    assert found(browser) == "13 of 45 texts"


def test_the_card(browser: Browser, small: Path) -> None:
    browser.open(small)
    card = browser.one("#card")
    outer, inner = browser.all(".passage:first-child .mark[tabindex]")[1:]
    assert (outer.text, inner.text) == ("Anna ", "Berg")
    ActionChains(browser.driver).move_to_element(inner).perform()
    browser.until(card.is_displayed)
    assert [surface.text for surface in card.find_elements(By.CLASS_NAME, "surface")] == ["Berg", "Anna Berg"]
    for expected in ("0.10", "0.20", "wrong: not in the gold", "verified", "not asked", *MODELS):
        assert expected in card.text
    assert "active" in (outer.get_attribute("class") or "")
    ActionChains(browser.driver).move_to_element(browser.one("h1")).perform()
    browser.until(lambda: not card.is_displayed())
    outer.click()
    ActionChains(browser.driver).move_to_element(browser.one("h1")).perform()
    assert "pinned" in (card.get_attribute("class") or "")
    browser.one("body").send_keys(Keys.ESCAPE)
    browser.until(lambda: not card.is_displayed())
    browser.one("#labels").send_keys(Keys.TAB, Keys.TAB)
    browser.script("document.querySelector('.mark[tabindex]').focus()")
    browser.until(card.is_displayed)
    assert inner.get_attribute("aria-describedby") is None
    assert browser.script("return document.activeElement.getAttribute('aria-describedby')") == "card"


def test_a_tap_on_a_phone(browser: Browser, small: Path) -> None:
    browser.size(390, 844)
    browser.open(small)
    card = browser.one("#card")
    assert not browser.one("#search").is_displayed()
    browser.one("#filters summary").click()
    assert browser.one("#search").is_displayed()
    piece = browser.all(".passage .mark[tabindex]")[6]
    piece.click()
    browser.until(card.is_displayed)
    edges = "const box = arguments[0].getBoundingClientRect(); return [box.top, box.bottom]"
    top, bottom = browser.driver.execute_script(edges, card)
    assert 0 < top < bottom <= 844
    assert browser.driver.execute_script(edges, piece)[1] <= top
    browser.one("h1").click()
    browser.until(lambda: not card.is_displayed())


def test_a_hundred_thousand_entities(browser: Browser, tmp_path: Path) -> None:
    sentence = "Anna Berg met Ben Holm in Oslo on Monday about Widget. "
    offsets = [(0, 9, "person"), (14, 22, "person"), (26, 30, "place"), (34, 40, "date"), (47, 53, "product")]
    text = sentence * 5
    entities = [
        entity(text, start + at, end + at, type_)
        for at in range(0, len(text), len(sentence))
        for start, end, type_ in offsets
    ]
    rows = [document(f"doc-{number}", f"{text}{number}.", entities) for number in range(4000)]
    write_run(tmp_path / "run", rows)
    write_report(str(tmp_path / "run"), tmp_path / "report.html", sample=4000)
    browser.open(tmp_path / "report.html")
    assert found(browser) == "4,000 of 4,000 texts"
    assert len(browser.all(".passage")) == 20
    assert browser.script("return document.querySelectorAll('*').length") < 10_000
    browser.script("window.scrollTo(0, document.body.scrollHeight)")
    browser.until(lambda: browser.script("return window.scrollY") > 1000)
    browser.one("#pager-below .next").click()
    assert browser.texts(".passage h3")[0] == "doc-20"
    browser.one("#search").send_keys("widget. 3999.")
    assert browser.texts(".passage h3") == ["doc-3999"]
