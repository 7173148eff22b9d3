"""What tells one model from another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from el4ner_ray.engines import bundled
from el4ner_ray.engines.identity import source_identity
from el4ner_ray.errors import UsageError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "nested").mkdir(parents=True)
    for name in ("config.json", "chat_template.jinja", "merges.txt", "tokenizer.model", "nested/config.json"):
        (folder / name).write_bytes(b"{}")
    (folder / "model.safetensors").write_bytes(b"0123456789")
    return folder


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda folder: (folder / "added.bin").touch(), False),
        (lambda folder: (folder / "nested" / "added.bin").touch(), False),
        (lambda folder: (folder / "model.safetensors").unlink(), False),
        (lambda folder: (folder / "model.safetensors").rename(folder / "model-1.safetensors"), False),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"01234567890"), False),
        # Weights of tens of GB are not read.
        (lambda folder: (folder / "model.safetensors").write_bytes(b"9876543210"), True),
        (lambda folder: (folder / "config.json").write_bytes(b"[]"), False),
        (lambda folder: (folder / "nested" / "config.json").write_bytes(b"[]"), False),
        (lambda folder: (folder / "chat_template.jinja").write_bytes(b"[]"), False),
        (lambda folder: (folder / "merges.txt").write_bytes(b"[]"), False),
        (lambda folder: (folder / "tokenizer.model").write_bytes(b"[]"), False),
        (lambda folder: (folder / "empty").mkdir(), True),
    ],
)
def test_a_folder_is_told_by_its_files_their_sizes_and_what_its_small_ones_say(
    model: Path, change: Callable[[Path], object], same: bool
) -> None:
    before = source_identity(str(model))
    assert source_identity(str(model)) == before
    change(model)
    assert (source_identity(str(model)) == before) is same


def test_the_same_files_elsewhere_are_the_same_model(model: Path, tmp_path: Path) -> None:
    before = source_identity(str(model))
    assert source_identity(str(model.rename(tmp_path / "moved"))) == before


def test_a_model_of_the_hub_is_told_by_its_revision() -> None:
    assert source_identity("org/model") == source_identity("org/model", "main") == "org/model@main"
    assert source_identity("org/model", "0a1b2c") == "org/model@0a1b2c"
    assert source_identity("org/other") != source_identity("org/model")


def test_a_bundled_model_is_told_by_what_is_pinned() -> None:
    name = next(iter(bundled.ASSETS))
    assert source_identity(f"bundled:{name}") == bundled.content_hash(name)
    with pytest.raises(UsageError):
        source_identity("bundled:nothing-like-it")
