"""What a model source stands for, so that a run resumes only with the same models."""

from __future__ import annotations

import hashlib
from pathlib import Path

from el4ner_ray.engines import bundled

_READ_WHOLE = (".json", ".jinja", ".txt", ".model")


def source_identity(source: str, revision: str | None = None) -> str:
    """A text that changes when the model does.

    Bundled: the pinned SHA-256. A local folder: SHA-256 over its files' names and sizes, and over the content of its
    configuration and tokenizer files; weights of tens of GB are not read. Otherwise the hub id and revision.
    """
    if source.startswith("bundled:"):
        return bundled.content_hash(source.removeprefix("bundled:"))
    folder = Path(source)
    if not folder.is_dir():
        return f"{source}@{revision or 'main'}"
    digest = hashlib.sha256()
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
        if path.suffix in _READ_WHOLE:
            digest.update(path.read_bytes())
    return digest.hexdigest()
