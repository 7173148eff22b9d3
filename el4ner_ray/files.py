"""Files and folders that an option names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from el4ner_ray.errors import UsageError


def file_system(uri: str) -> tuple[Any, str]:
    """The fsspec file system of a local path or URI, and the path within it. Raises UsageError where there is none."""
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:  # ImportError: s3fs, gcsfs ... are installed on demand
        raise UsageError(f"{uri}: cannot be opened: {error}") from None
    return filesystem, path


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Raise UsageError, naming what is read, where the file system fails in this block."""
    try:
        yield
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: str, error: OSError) -> UsageError:
    """What is told of a file or folder that the file system does not give."""
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    return UsageError(f"{path}: cannot be read: {reason}; make it readable, or name the folder of another run")


def is_local(filesystem: Any) -> bool:
    """Whether an fsspec file system is this machine's own."""
    return isinstance(filesystem, LocalFileSystem)


def write_text(path: Path, content: str, option: str) -> None:
    """Write a file, with the folders that it lies in. Raises UsageError, which names the `option`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, "utf-8")
    except OSError as error:
        raise UsageError(f"{option} {path}: {error.strerror}; name a file that can be written") from None
