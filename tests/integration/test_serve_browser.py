"""The page of `el4ner serve` in a real browser: what it asks and shows, and that nothing in a text or label runs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from selenium.webdriver import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.browser import CHROMIUM, DRIVER, Browser
from tests.integration.test_report_browser import FOREIGN
from tests.serving import Server, served
from tests.unit.test_report import HOSTILE

pytestmark = [
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium and chromedriver on this machine"),
    pytest.mark.timeout(900),
]

KEY = "k3y"
TEXT = "👩‍👩‍👧 Anna Berg met Ben in Oslo. Then 王小明 left.\r\nIt was late."


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a key and without a pool, whose engines take their time."""
    folder = tmp_path_factory.mktemp("serve")
    (folder / "job.yaml").write_text("fake: {latency_ms: 150}\n")
    with served(folder, "--config", folder / "job.yaml", key=KEY) as running:
        yield running


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    browser = Browser()
    yield browser
    browser.driver.quit()


@pytest.fixture
def page(chromium: Browser, server: Server) -> Browser:
    """The page as it comes, with the key filled in."""
    chromium.size(1280, 900)
    chromium.driver.get("about:blank")
    chromium.driver.get_log("browser")
    chromium.driver.get(server.url)
    chromium.one("#key").send_keys(KEY)
    return chromium


def fill(field: WebElement, value: str) -> None:
    """As if pasted: chromedriver types no code point beyond the first plane."""
    field.parent.execute_script(
        "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))",
        field,
        value,
    )


def annotate(page: Browser, text: str) -> None:
    fill(page.one("#text"), text)
    page.one("#go").click()
    page.until(lambda: "questions to the models" in page.one("#progress").text or page.one("#problem").is_displayed())


def step(page: Browser, name: str) -> None:
    page.one(f"[data-step='{name}']").click()
    assert page.one(f"[data-step='{name}']").get_attribute("aria-pressed") == "true"


def answer(server: Server, text: str, **more: Any) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {KEY}"}
    body = {"texts": [text]} | more
    given = httpx.post(f"{server.url}/v1/annotate", json=body, headers=headers).json()
    document: dict[str, Any] = given["documents"][0]
    return document


def test_each_step_is_shown(page: Browser, server: Server) -> None:
    labels = dict(page.script("return Object.entries(labelsGiven())"))
    annotate(page, TEXT)
    # A text area turns CRLF into a line feed, and so does what it sends.
    text = TEXT.replace("\r\n", "\n")
    expected = answer(server, text, labels=labels)
    assert page.one("[data-step='result']").get_attribute("aria-pressed") == "true"
    kept, dropped = expected["entities"], expected["dropped"]
    shown = page.script(
        "return passages[0].marks.map((m, n) => [surfaceOf(passages[0], n), data.types[m.type], m.verdict])"
    )
    assert sorted(map(tuple, shown)) == sorted(
        [(e["text"], e["type"], "") for e in kept] + [(e["text"], e["type"], "dropped") for e in dropped]
    )
    assert page.script("return passages[0].segments.map(([text]) => text).join('')") == text
    step(page, "vote")
    assert len(page.script("return passages[0].marks")) == len(kept) + len(dropped)
    step(page, "union")
    surfaces = page.script("return passages[0].marks.map((_, n) => surfaceOf(passages[0], n))")
    assert sorted(surfaces) == sorted(e["text"] for e in kept + dropped)
    step(page, "models")
    assert page.texts(".passage h3") == ["fake-a", "fake-b", "fake-c"]
    for number, name in enumerate(page.texts(".passage h3")):
        found = page.script(f"return passages[{number}].marks.map((_, n) => surfaceOf(passages[{number}], n))")
        assert sorted(found) == sorted(e["text"] for e in kept + dropped if name in e["extracted_by"])


# Which step is shown, and whether it has marks, each time that this changes.
WATCH = """
    window.seen = [];
    new MutationObserver(() => {
        const step = document.querySelector("#steps [aria-pressed='true']")?.dataset.step;
        if (!step) return;
        const now = `${step} ${document.querySelector("#passages .mark") !== null}`;
        if (seen.at(-1) !== now) seen.push(now);
    }).observe(document.querySelector("main"), { subtree: true, childList: true, attributes: true });
"""


def test_steps_appear_as_they_are_done(page: Browser) -> None:
    page.script(WATCH)
    annotate(page, "Anna met Ben in Oslo.")
    assert page.script("return seen") == ["models false", "models true", "vote true", "result true"]


def test_asking_can_be_stopped(page: Browser) -> None:
    fill(page.one("#text"), "Anna met Ben in Oslo. " * 200)
    page.one("#go").click()
    page.until(lambda: page.one("#stop").is_displayed() and page.all("#passages .mark"))
    page.one("#stop").click()
    page.until(lambda: page.one("#progress").text == "Stopped.")
    assert page.one("#go").is_enabled()
    assert page.all("#passages .mark")


def test_the_card_tells_the_votes(page: Browser) -> None:
    annotate(page, "Anna met Ben in Oslo.")
    page.one("#passages .mark[tabindex]").click()
    card = page.one("#card")
    page.until(card.is_displayed)
    for expected in ("fake-a", "fake-b", "fake-c", "extracted", "vote", "score"):
        assert expected in card.text
    page.one("body").send_keys(Keys.ESCAPE)
    page.until(lambda: not card.is_displayed())


def test_labels_are_edited(page: Browser) -> None:
    while rows := page.all(".label-row button"):
        rows[0].click()
    page.one("#add-label").click()
    name, description = page.all(".label-row input")
    name.send_keys("gene")
    description.send_keys("a gene or protein")
    annotate(page, "Anna met Ben in Oslo.")
    assert set(page.texts("#passages .label")) == {"\u2060gene"}
    name.clear()
    page.one("#go").click()
    page.until(lambda: "the label set is empty" in page.one("#problem").text)


@pytest.mark.parametrize(
    ("line", "text", "entities"),
    [
        ("[Anna](person) flew to [Oslo](place).", "Anna flew to Oslo.", [(0, 4, "person"), (13, 17, "place")]),
        ("😂 [王小明](person)", "😂 王小明", [(2, 5, "person")]),
        ("nothing here", "nothing here", []),
        (r"\[1] and [a\]b](x) \\ [c](y)", r"[1] and a]b \ c", [(8, 11, "x"), (14, 15, "y")]),
        (r"\[see [Anna](person)", "[see Anna", [(5, 9, "person")]),
        (r"\\[c](y)", r"\c", [(1, 2, "y")]),
        ("[x]() [](y) [z]", "[x]() [](y) [z]", []),
    ],
)
def test_demonstrations_are_read(page: Browser, line: str, text: str, entities: list[tuple[int, int, str]]) -> None:
    read = page.driver.execute_script("return demonstration(arguments[0])", line)
    assert read["text"] == text
    assert [(e["start"], e["end"], e["type"]) for e in read["entities"]] == entities


def test_demonstrations_are_sent(page: Browser) -> None:
    fill(page.one("#demonstrations"), "[Anna](person) flew to [Oslo](place).\n\n[Ben](gene) left.")
    annotate(page, "Anna met Ben in Oslo.")
    assert "'gene' is not among the labels" in page.one("#problem").text
    fill(page.one("#demonstrations"), "[Anna](person) flew to [Oslo](place).")
    annotate(page, "Anna met Ben in Oslo.")
    assert not page.one("#problem").is_displayed()
    assert page.all("#passages .mark")


def test_a_key_that_no_header_carries_is_told(page: Browser) -> None:
    # Once "The server does not answer", which nobody had asked.
    fill(page.one("#key"), "“key”")
    annotate(page, "Anna met Ben.")
    assert "API key" in page.one("#problem").text
    assert page.one("#go").is_enabled()


def test_what_the_server_refuses_is_told(page: Browser) -> None:
    fill(page.one("#key"), "wrong")
    annotate(page, "Anna met Ben.")
    assert "API key" in page.one("#problem").text
    assert page.one("#go").is_enabled()


ERROR_LINE = json.dumps({"kind": "error", "error": {"message": "it broke off"}})


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        # uvicorn's own, to the thousandth connection
        ("new Response('Service Unavailable', {status: 503, statusText: 'Service Unavailable'})", "503 Service Un"),
        ("Promise.reject(new TypeError('no network'))", "does not answer: no network"),
        (f"new Response({ERROR_LINE!r} + '\\n')", "it broke off"),
        ("new Response('')", "is not all"),
    ],
    ids=("plain", "unreachable", "told", "broken"),
)
def test_a_failure_ends_what_the_page_says_it_does(page: Browser, answer: str, told: str) -> None:
    page.script(f"window.fetch = async () => {answer}")
    page.one("#go").click()
    page.until(lambda: told in page.one("#problem").text)
    assert page.one("#progress").text == ""
    assert page.one("#go").is_enabled()


def test_a_label_in_two_rows_is_refused(page: Browser) -> None:
    page.script("window.fetch = async () => { throw new Error('asked'); }; addLabel(' place ', 'another meaning')")
    page.one("#go").click()
    page.until(lambda: page.one("#problem").text.startswith("labels: place stands in two rows"))
    assert page.one("#progress").text == ""


def test_rows_have_the_colours_of_their_marks(page: Browser) -> None:
    # Objects of JavaScript have names like numbers first, and so has what is sent.
    page.script("addLabel(); addLabel('7', 'numbers'); addLabel('2')")
    annotate(page, "Anna met Ben in Oslo.")
    rows = page.script("return labelRows().map((row) => [row.children[0].value, row.className])")
    types = page.script("return data.types.slice(0, 5)")
    assert types == ["2", "7", "person", "place", "organization"]
    assert {name: row for name, row in rows if name} == {
        name: f"label-row type-{number}" for number, name in enumerate(types)
    }
    fill(page.one(".label-row input"), "1")
    assert page.one(".label-row").get_attribute("class") == "label-row type-0"


def test_rows_of_labels_have_names_of_their_own(page: Browser) -> None:
    named = "return [...document.querySelectorAll('.label-row > *')].map((field) => field.getAttribute('aria-label'))"
    names = page.script(named)
    assert len(set(names)) == len(names) == 9
    assert names[3:6] == ["Label 2", "Description 2", "Remove label 2"]
    page.all(".label-row button")[0].click()
    assert page.script("return document.activeElement.getAttribute('aria-label')") == "Remove label 1"
    assert page.script("return document.activeElement.parentElement.children[0].value") == "place"
    page.all(".label-row button")[1].click()
    assert page.script("return document.activeElement.id") == "add-label"
    assert page.script(named) == ["Label 1", "Description 1", "Remove label 1"]


# A stream whose lines come when the test sends them, of a text that has two sentences.
SENDING = """
    window.fetch = async () => new Response(new ReadableStream({
        start(stream) {
            window.send = (line) => stream.enqueue(new TextEncoder().encode(JSON.stringify(line) + "\\n"));
        },
    }));
    const place = (sentence) => ({ document: 0, sentence });
    window.sendStart = () => send({
        kind: "start", method: "paper", demonstrations: "none", labels: labelsGiven(), sentences: [place(0), place(1)],
    });
    window.sendFound = (sentence, start, end) => {
        const candidates = [{ start, end, extracted_by: [data.models[0]] }];
        send({ kind: "stage", stage: "extract", ...place(sentence), candidates });
    };
"""
FRAMES = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))"


@pytest.mark.parametrize("pinned", [True, False])
def test_what_is_read_stays_while_more_comes(page: Browser, pinned: bool) -> None:
    page.script(SENDING)
    fill(page.one("#text"), "Anna left. Ben stayed.")
    page.one("#go").click()
    page.until(lambda: page.script("return Boolean(window.send)"))
    page.script("sendStart(); sendFound(0, 0, 4)")
    page.until(lambda: len(page.all("#passages .mark[tabindex]")) == 1)
    mark = page.one("#passages .mark[tabindex]")
    if pinned:
        mark.click()
        page.script("document.activeElement.blur()")
    else:
        page.script("document.querySelector('#passages .mark[tabindex]').focus()")
    page.script("sendFound(1, 11, 14)")
    page.until(lambda: page.script("return sentences[1].candidates !== null"))
    page.driver.execute_async_script(FRAMES)
    assert page.all("#passages .mark[tabindex]") == [mark]
    assert page.one("#card").is_displayed() or not pinned
    assert page.script("return document.activeElement.matches('.mark')") is not pinned
    # What came is shown as soon as nobody is there.
    if pinned:
        page.one("body").send_keys(Keys.ESCAPE)
    else:
        page.script("byId('text').focus()")
    page.until(lambda: len(page.all("#passages .mark[tabindex]")) == 2)


def contrast(first: str, second: str) -> float:
    """Of two colours as browsers give them (WCAG 2)."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    darker, lighter = sorted((luminance(first), luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


FIELDS = """
    const row = document.querySelector(".label-row");
    const fields = [...document.querySelectorAll(".inputs :is(textarea, input, select)")];
    return Array.from({ length: COLOURS }, (_, number) => {
        row.className = `label-row ${colour(number)}`;
        return fields.map(getComputedStyle).map((style) => [style.borderTopColor, style.backgroundColor]);
    }).flat();
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fields_can_be_seen(page: Browser, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    colours = page.script(FIELDS)
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert len(set(map(tuple, colours))) > 40
    assert min(contrast(border, background) for border, background in colours) >= 3


def test_payloads_do_not_run(page: Browser) -> None:
    assert len(HOSTILE) >= 10
    page.driver.get_log("browser")
    for payload in HOSTILE:
        # The scripted engine names capitalised words: each payload is text beside and label of what is highlighted.
        label = payload.replace("|", "").replace("=", "").replace("\u2028", "").replace("\u2029", "").strip()
        while rows := page.all(".label-row button"):
            rows[0].click()
        page.script("addLabel()")
        name, description = page.all(".label-row input")
        fill(name, label)
        fill(description, payload)
        fill(page.one("#demonstrations"), f"{payload} [Anna]({label.replace(')', '')})")
        annotate(page, f"{payload} Anna {payload} Ben {payload}")
        fill(page.one("#demonstrations"), "")
        annotate(page, f"{payload} Anna {payload} Ben {payload}")
        for name_of_step in ("models", "union", "vote", "result"):
            step(page, name_of_step)
            assert not page.all(f"main :is({FOREIGN})"), payload
        if marks := page.all("#passages .mark[tabindex]"):
            marks[0].click()
            page.until(page.one("#card").is_displayed)
            assert not page.all(f"#card :is({FOREIGN})"), payload
            page.one("body").send_keys(Keys.ESCAPE)
        assert page.script("return [typeof window.ran, document.scripts.length]") == ["undefined", 2], payload
    refused = [entry["message"] for entry in page.driver.get_log("browser")]
    assert not [message for message in refused if "Content Security Policy" in message or "SyntaxError" in message]


def test_the_policy_holds(page: Browser) -> None:
    attempt = """
        const script = document.createElement("script");
        script.textContent = "window.ran = 1";
        document.body.append(script);
        const holder = document.createElement("div");
        holder.innerHTML = "<img src=x onerror='window.ran = 1'>";
        document.body.append(holder);
        return window.ran;
    """
    assert page.script(attempt) is None
    page.until(lambda: "Content Security Policy" in json.dumps(page.driver.get_log("browser")))
    assert page.script("return window.ran") is None


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(page: Browser, width: int) -> None:
    page.size(width, 844)
    annotate(page, f"{TEXT} {'Long' * 100} {HOSTILE[0]}")
    for name in ("models", "union", "vote", "result"):
        step(page, name)
        assert page.script("return document.documentElement.scrollWidth") <= width, name
