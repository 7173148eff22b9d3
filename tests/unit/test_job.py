"""What decides the annotations of a job, and what a run tells of its sessions."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from el4ner_ray import job
from el4ner_ray.accounting import Accounts
from el4ner_ray.config import JobConfig, load
from el4ner_ray.core import prompting
from el4ner_ray.errors import UsageError
from el4ner_ray.fingerprint import fingerprint
from el4ner_ray.job import deciding_fields, results
from el4ner_ray.output import open_output, write_run
from el4ner_ray.pool import Pool
from el4ner_ray.schema import ANNOTATION_SCHEMA
from el4ner_ray.sink import FileSummary, Place, commit, file_name


class Setting:
    """A job with two models in folders, and the package that it runs in."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.monkeypatch = monkeypatch
        for name in "ab":
            (folder / name).mkdir()
            (folder / name / "config.json").write_text("{}")
        self.models = [{"name": name, "source": str(folder / name), "gpus": 0} for name in "ab"]
        self.overrides: dict[str, Any] = {"engine": "vllm"}
        self.labels = {"person": "", "place": ""}
        self.built_from = {"pool": "0a1b", "sentences": 5}

    @property
    def config(self) -> JobConfig:
        return load(profile="fake", overrides=self.overrides | {"models": self.models, "verifier": "a"})

    @property
    def fields(self) -> dict[str, Any]:
        return deciding_fields(self.config, Pool("index", self.labels, self.built_from, None))


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    return Setting(tmp_path, monkeypatch)


def change_templates(setting: Setting) -> None:
    """As another version of the package might have: the same name, another wording."""
    packaged = resources.files("el4ner_ray.prompts")
    folder = setting.folder / "prompts" / "v1"
    folder.mkdir(parents=True)
    for template in packaged.joinpath("v1").iterdir():
        if template.name.endswith(".jinja"):
            (folder / template.name).write_text(template.read_text("utf-8") + " " * (template.name == "verify.jinja"))
    setting.monkeypatch.setattr(prompting, "resources", SimpleNamespace(files=lambda _: folder.parent))


def change_order_of_labels(setting: Setting) -> None:
    setting.labels = dict(reversed(setting.labels.items()))


CHANGES: dict[str, Callable[[Setting], object]] = {
    "model_files.a": lambda setting: (setting.folder / "a" / "config.json").write_text("[]"),
    "model_files.b": lambda setting: (setting.folder / "b" / "added.bin").touch(),
    "label_order": change_order_of_labels,
    "prompt_templates": change_templates,
    "index": lambda setting: setting.built_from.update(sentences=6),
    "package": lambda setting: setting.monkeypatch.setattr(job.metadata, "version", lambda _: "99"),
    "demonstrations.k": lambda setting: setting.overrides.update(demonstrations={"k": 3}),
    "method": lambda setting: setting.overrides.update(method="calibrated"),
    "labels": lambda setting: setting.overrides.update(labels=setting.labels),
}


def written(setting: Setting) -> Place:
    """An output folder of a run with the job's fields, and one row."""
    place = Place(str(setting.folder / "out"))
    row = {"doc_id": "a", "part": 0, "text_start": 0, "text": "A", "status": "ok", "entities": [], "dropped": []}
    table = pa.Table.from_pylist([row], ANNOTATION_SCHEMA)
    commit(place, file_name(table), table, FileSummary(), [])
    write_run(place, {"fingerprint": fingerprint(setting.fields), "fingerprint_fields": setting.fields})
    return place


@pytest.mark.parametrize("field", CHANGES)
def test_an_output_is_not_resumed_with_what_would_annotate_otherwise(setting: Setting, field: str) -> None:
    place = written(setting)
    assert open_output(place, setting.fields, resume=True, force=False).texts.keys() == {("a", 0)}
    CHANGES[field](setting)
    with pytest.raises(UsageError, match=f"was written with a different {field}; restore it, name another folder"):
        open_output(place, setting.fields, resume=True, force=False)


def test_an_output_is_resumed_whatever_the_run_is_fast_with(setting: Setting) -> None:
    place = written(setting)
    setting.models[0].update(replicas=3)
    setting.overrides.update(limits={"batch_documents": 3})
    assert open_output(place, setting.fields, resume=True, force=False).texts.keys() == {("a", 0)}


def test_speed_is_that_of_all_sessions_that_finished() -> None:
    # One that was killed left 40 sentences, and nobody knows how long it took for them.
    accounts = Accounts(ok=3, partial=2, failed=1, summary=FileSummary(sentences=100, entities=7))
    sessions = [
        {"sentences": 10, "startup_seconds": 3.25, "wall_seconds": 2.0},
        {"sentences": 50, "startup_seconds": 0.5, "wall_seconds": 6.0},
    ]
    assert results(accounts, sessions) == {
        "status": "finished",
        "documents": {"total": 6, "ok": 3, "partial": 2, "failed": 1},
        "sentences": 100,
        "entities": 7,
        "startup_seconds": 3.75,
        "wall_seconds": 8.0,
        "sentences_per_second": 7.5,
        "sessions": sessions,
        "stages": {},
    }
