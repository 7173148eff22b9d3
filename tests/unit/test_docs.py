"""The documentation: it names what there is, its commands parse, its files are valid, and the site needs no network."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel

from el4ner_ray import config as configuration
from el4ner_ray.cli import app
from el4ner_ray.config import PROFILES, JobConfig, load
from el4ner_ray.labelled import check_against, read_labelled
from tests.conftest import ROOT

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "examples" / "README.md", *sorted(DOCS.glob("*.md"))]
SECTIONS = (
    "JobConfig",
    "ModelConfig",
    "ReplicaRange",
    "Rates",
    "Demonstrations",
    "Calibration",
    "Limits",
    "FakeEngine",
)
JOBS = {
    "jobs/annotate.py": "annotate",
    "jobs/build_index.py": "index",
    "jobs/evaluate.py": "evaluate",
    "jobs/bench.py": "annotate",
}


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in one of these languages, wherever they are indented."""
    found = re.findall(r"^( *)```(\w*)\n(.*?)^ *```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return [
        re.sub(f"^{indent}", "", text, flags=re.MULTILINE) for indent, language, text in found if language in languages
    ]


def commands(page: Path) -> Iterator[list[str]]:
    """The words after `el4ner` of each command in a block."""
    for block in blocks(page, "", "bash", "console"):
        for line in block.replace("\\\n", " ").splitlines():
            if not re.match(r"(\$ )?([A-Z_0-9]+=\S+ )*(\.venv/bin/)?(el4ner|ray job submit) ", line):
                continue
            words = shlex.split(line.removeprefix("$ "), comments=True)
            program = next(i for i, word in enumerate(words) if re.search(r"el4ner$|^ray$", word))
            if words[program] == "ray":
                job = next(word for word in words if word in JOBS)
                yield [JOBS[job], *words[words.index(job) + 1 :]]
            else:
                yield words[program + 1 :]


def mentions(page: Path) -> Iterator[list[str]]:
    """The words after `el4ner` of each command inside a sentence, which need not be complete."""
    prose = re.sub(r"^ *```.*?^ *```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    for told in re.findall(r"`((?:\.venv/bin/)?el4ner [^`]+)`", prose):
        yield told.split()[1:]


def resolved(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words name, and its arguments."""
    command: Any = typer.main.get_command(app)
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        assert words[0] in command.commands, f"there is no el4ner {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_parses(page: Path) -> None:
    for words in commands(page):
        command, arguments = resolved(words)
        command.make_context(command.name, arguments)  # raises where an option or argument is wrong or missing
    for words in mentions(page):
        command, arguments = resolved(words)
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in arguments if word.startswith("-")} <= known | {"--help"}, words


def test_commands_are_found() -> None:
    told = [" ".join(words) for page in PAGES for words in commands(page)]
    assert "report out/own -o out/own/report.html" in told
    assert any(words.startswith("annotate /data/archive --pool /data/index") for words in told)
    assert ["doctor"] in list(mentions(DOCS / "index.md"))


@pytest.mark.parametrize(
    "words", [["doktor"], ["evaluate", "out", "--gold"], ["report", "out", "--to", "x"], ["index", "x"]]
)
def test_a_wrong_command_would_be_noticed(words: list[str]) -> None:
    with pytest.raises(Exception, match=r"no el4ner|requires|[Nn]o such option|Missing"):
        resolved(words)[0].make_context("x", resolved(words)[1])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_yaml_block_is_a_configuration(page: Path, tmp_path: Path) -> None:
    for block in blocks(page, "yaml"):
        (tmp_path / "job.yaml").write_text(block, "utf-8")
        load(tmp_path / "job.yaml")


@pytest.mark.parametrize(("page", "more"), [(DOCS / "getting-started.md", ["Paris"]), (ROOT / "README.md", [])])
def test_the_files_shown_are_a_pool_and_a_label_set(page: Path, more: list[str], tmp_path: Path) -> None:
    pool, job = blocks(page, "json")[1], blocks(page, "yaml")[0]
    (tmp_path / "pool.jsonl").write_text(pool, "utf-8")
    (tmp_path / "job.yaml").write_text(job, "utf-8")
    texts = read_labelled(str(tmp_path / "pool.jsonl"), "pool")
    surfaces = [text.text[entity.start : entity.end] for text in texts for entity in text.entities]
    assert surfaces == ["Anna", "Oslo", "Porto", "Okafor", "Lena", "Bo", *more]
    for profile in PROFILES:
        config = load(tmp_path / "job.yaml", profile)
        check_against(texts, config.labels or {}, "pool.jsonl")
        assert config.demonstrations.k <= len(texts)


def figures(text: str) -> set[str]:
    """The gigabytes and percentages of a text, whole: no "5 %" in "95 %" or in "0.5 %"."""
    return set(re.findall(r"(?<![\d.,])\d[\d.,]*[ \u00a0](?:GB|%)", text))


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_figures_are_those_of_the_readme(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert figures(prose) - figures((ROOT / "README.md").read_text("utf-8")) == set()


def test_a_part_of_a_figure_is_another() -> None:
    measured = figures("It takes 10 GB, 48 GB or 1,024 GB; of 95 %, 0.48\u00a0% are wrong.")
    assert measured == {"10 GB", "48 GB", "1,024 GB", "95 %", "0.48\u00a0%"}
    assert figures("0 GB, 8 GB and 5 %").isdisjoint(measured)


@pytest.fixture(scope="module")
def hooks() -> Any:
    """What the site is made with."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: requirements/docs.txt")
    pytest.importorskip("latex2mathml", reason="latex2mathml is not installed: requirements/docs.txt")
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_covers_every_section() -> None:
    sections = {
        name for name, value in vars(configuration).items() if isinstance(value, type) and issubclass(value, BaseModel)
    }
    assert sections - {"BaseModel", "_Section"} == set(SECTIONS)
    page = (DOCS / "configuration.md").read_text("utf-8")
    assert all(f"<!-- the fields of {name} -->" in page for name in SECTIONS)


@pytest.mark.parametrize("name", SECTIONS)
def test_the_reference_tells_every_field(hooks: Any, name: str) -> None:
    rows = hooks.fields(name).splitlines()[2:]
    model = getattr(configuration, name)
    assert [re.findall(r"^\| `(\w+)` \|", row) for row in rows] == [[field] for field in model.model_fields]
    for row in rows:
        meaning, facts = re.findall(r"\| ([^|]+)<br><small>([^|]+)</small> \|$", row)[0]
        assert len(meaning) > 10
        assert facts


def test_the_reference_tells_types_defaults_and_bounds(hooks: Any) -> None:
    def facts(section: str, field: str) -> str:
        (row,) = (row for row in hooks.fields(section).splitlines() if row.startswith(f"| `{field}` |"))
        return str(re.findall(r"<small>(.*)</small>", row)[0])

    assert facts("Demonstrations", "k") == "integer · default `5` · at least 1"
    assert facts("Demonstrations", "pool_spans") == '`extracted` or `gold` · default `"extracted"`'
    assert facts("Demonstrations", "weights").startswith("mapping of names to numbers · default `{")
    assert facts("Calibration", "target_precision") == "number · optional · more than 0, at most 1"
    assert facts("ModelConfig", "stop_token_ids") == "list of integers · default `[]`"
    assert facts("JobConfig", "models") == "list of sections · required · 1 or more"
    assert facts("Limits", "part_characters") == "integer · default `8000` · at least 100"


def test_an_unknown_comment_is_refused(hooks: Any) -> None:
    from mkdocs.exceptions import PluginError

    with pytest.raises(PluginError, match="the moon"):
        hooks.on_page_markdown("<!-- the moon -->")


@pytest.fixture(scope="module")
def site(hooks: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it; any warning fails."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_has_every_page_profile_and_prompt(site: Path) -> None:
    assert {page.stem for page in DOCS.glob("*.md")} <= {page.stem for page in site.glob("*.html")}
    assert not (site / "hooks.py").exists()
    shown = {page.stem: page.read_text("utf-8") for page in site.glob("*.html")}
    assert not any("<!-- the " in text or "arithmatex" in text for text in shown.values())
    assert shown["method"].count("<math ") > 20
    assert all(f'id="{profile}"' in shown["configuration"] for profile in PROFILES)
    assert "Rome is a place in this sentence" in shown["prompts"]
    assert shown["configuration"].count("<br><small>") == sum(
        len(getattr(configuration, s).model_fields) for s in SECTIONS
    )
    assert JobConfig.model_fields.keys() <= set(re.findall(r"<td><code>(\w+)</code></td>", shown["configuration"]))


def test_the_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    for page in site.glob("*.html"):
        text = page.read_text("utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?([^\"' >]+)", text)
        loaded += re.findall(r"<link\b[^>]*\bhref=[\"']?([^\"' >]+)", text)
        assert loaded
        assert not [place for place in loaded if re.match(r"(https?:)?//", place)], page.name
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", sheet.read_text("utf-8")), sheet.name
