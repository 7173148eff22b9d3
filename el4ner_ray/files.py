"""Files and folders that an option names, and having them outlast a power cut."""

from __future__ import annotations

import errno
import os
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


def is_local(filesystem: Any) -> bool:
    """Whether an fsspec file system is this machine's own."""
    return isinstance(filesystem, LocalFileSystem)


def to_disk(path: str) -> None:
    """Return when a local file, or the names in a local folder, would outlast a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems have no such thing for folders
            raise
    finally:
        os.close(descriptor)


def write_text(path: Path, content: str, option: str) -> None:
    """Write a file, with the folders that it lies in. Raises UsageError, which names the `option`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, "utf-8")
    except OSError as error:
        raise UsageError(f"{option} {path}: {error.strerror}; name a file that can be written") from None
