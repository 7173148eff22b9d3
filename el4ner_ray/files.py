"""Files that an option names."""

from __future__ import annotations

from pathlib import Path

from el4ner_ray.errors import UsageError


def write_text(path: Path, content: str, option: str) -> None:
    """Write a file, with the folders that it lies in. Raises UsageError, which names the `option`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, "utf-8")
    except OSError as error:
        raise UsageError(f"{option} {path}: {error.strerror}; name a file that can be written") from None
