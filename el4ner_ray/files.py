"""Files and folders that an option names, and having them outlast a power cut."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from el4ner_ray.errors import FatalError, UsageError


def file_system(uri: str) -> tuple[Any, str]:
    """The fsspec file system of a local path or URI, and the path within it. Raises UsageError where there is none."""
    if "://" not in uri:  # by name alone: fsspec takes `::` in one for the address of an archive
        return LocalFileSystem(), LocalFileSystem._strip_protocol(uri)
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


@contextmanager
def replaced(given: Path, option: str) -> Iterator[Path]:
    """A path to write a file or folder to. It becomes `given` when the block ends well, else nothing is left of it.

    Raises:
        UsageError: `given`, which the `option` named, cannot be made.
        FatalError: The file system failed while the block ran; what was at `given` is still there.
    """
    target = given.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    except OSError as error:
        raise _unwritable(given, option, error) from None
    made, before = scratch / "made", scratch / "replaced"
    try:
        yield made
        if target.is_dir() or (made.is_dir() and target.exists()):
            target.rename(before)  # a folder cannot be renamed onto another that holds something
        made.replace(target)
    except OSError as error:
        raise FatalError(f"{option} {given}: writing failed, nothing of it is left: {error}") from error
    finally:
        if before.exists() and not target.exists():
            before.rename(target)
        shutil.rmtree(scratch)


def write_text(path: Path, content: str, option: str) -> None:
    """Write a file, complete or not at all, with the folders that it lies in; errors as `replaced`.

    What names that are not UTF-8 hold instead of characters is written as an escape.
    """
    encoded = content.encode("utf-8", "backslashreplace")
    try:
        if path.exists() and not path.is_file():  # a pipe or a terminal, which nothing can take the place of
            path.write_bytes(encoded)
            return
    except OSError as error:
        raise _unwritable(path, option, error) from None
    with replaced(path, option) as made:
        made.write_bytes(encoded)


def _unwritable(path: Path, option: str, error: OSError) -> UsageError:
    return UsageError(f"{option} {path}: cannot be written: {error.strerror}; name a place that can")
