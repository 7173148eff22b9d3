"""Finding the input files that files, folders, globs and URIs name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import fsspec

from el4ner_ray.errors import UsageError
from el4ner_ray.files import file_system
from el4ner_ray.readers import FORMATS, encodable, suffix


@dataclass(frozen=True, slots=True)
class Found:
    """A file to read. `name` is its path relative to `given`, the input that named it; `uri` opens from any folder."""

    given: str
    uri: str
    name: str


def find(inputs: Sequence[str], without: str | None = None) -> list[Found]:
    """The files that the inputs name, in the order given, sorted within each.

    An input is a file, a folder (searched recursively for known suffixes, hidden files and folders left out) or a glob
    (whose files must all have known suffixes), local or an fsspec URI. What lies below the folder `without` is left
    out. Raises UsageError for an input that names nothing, and for a file named twice.
    """
    found: list[Found] = []
    for given in inputs:
        found += _find(given, without)
    first: dict[str, Found] = {}
    for file in found:
        if (other := first.setdefault(file.uri, file)) is not file:
            raise UsageError(f"{file.uri}: named by two inputs, {other.given} and {file.given}; drop one of them")
    return found


def _find(given: str, without: str | None) -> list[Found]:
    known = " ".join(FORMATS)
    try:
        fs, path = file_system(given)
        path = path.rstrip("/") or "/"
        if fs.isfile(path):
            root, files = path.rsplit("/", 1)[0], [path]
        elif fs.isdir(path):
            root, files = path, _outside(without, fs, _in_folder(fs, path))
            if not files:
                raise UsageError(f"{given}: the folder holds no file to read; it takes {known}")
        elif fsspec.core.has_magic(path):
            root, files = _glob(fs, path)
            files = _outside(without, fs, files)
            if not files:
                raise UsageError(f"{given}: no file matches the pattern; check it, and quote it for the shell")
        else:
            raise UsageError(f"{given}: no such file or folder; check the path")
    except (OSError, ValueError, ImportError) as error:  # ImportError: s3fs, gcsfs ... are installed on demand
        raise UsageError(f"{given}: cannot be opened: {error}") from None
    for file in files:
        if suffix(file) is None:
            raise UsageError(f"{file}: unknown suffix; it takes {known}")
        if not encodable(file):
            raise UsageError(f"{file!r}: the file name is not UTF-8; rename the file")
    local = "file" in (fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,))
    return [
        Found(given, file if local else _uri(given, fs, root, file), file.removeprefix(root).lstrip("/"))
        for file in files
    ]


def _uri(given: str, fs: Any, root: str, file: str) -> str:
    """What opens a file found below `root`: as it was given, with its host, or else as fsspec calls it.

    Raises UsageError where neither does.
    """
    for uri in (given[: given.rindex(root)] + file if root in given else "", fs.unstrip_protocol(file)):
        try:
            if fsspec.core.url_to_fs(uri) == (fs, file):
                return uri
        except (OSError, TypeError, ValueError):  # a part of the address is missing
            continue
    raise UsageError(f"{given}: single files of such an address cannot be opened; name the files, or copy them")


def _outside(folder: str | None, fs: Any, files: list[str]) -> list[str]:
    """The files that do not lie below a folder, which may be of another file system."""
    if folder is None:
        return files
    try:
        other, path = file_system(folder)
    except UsageError:  # whoever writes there tells it
        return files
    return files if other != fs else [file for file in files if not file.startswith(f"{path.rstrip('/')}/")]


def _in_folder(fs: Any, folder: str) -> list[str]:
    files = [file for file in fs.find(folder) if suffix(file)]
    return sorted(file for file in files if "/." not in file.removeprefix(folder))


def _glob(fs: Any, pattern: str) -> tuple[str, list[str]]:
    """The folder before the first wildcard, and the files that match or lie in a folder that matches.

    As in a shell, hidden files and folders match only a pattern that names a dot.
    """
    parts = pattern.split("/")
    fixed = next(i for i, part in enumerate(parts) if fsspec.core.has_magic(part))
    root, hidden = "/".join(parts[:fixed]), any(part.startswith(".") for part in parts[fixed:])
    files: set[str] = set()
    for path, info in fs.glob(pattern, detail=True).items():
        if hidden or "/." not in path.removeprefix(root):
            files.update([path] if info["type"] == "file" else _in_folder(fs, path))
    return root, sorted(files)
