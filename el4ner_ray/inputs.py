"""Finding the input files that files, folders, globs and URIs name."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from el4ner_ray.errors import UsageError
from el4ner_ray.files import file_system, is_local
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
    (whose files must all have known suffixes), local or an fsspec URI. Links are followed, into each local folder once.
    What lies below the folder `without` is left out. Raises UsageError for an input that names nothing, for a local
    folder that cannot be listed, and for a file named twice.
    """
    found: list[Found] = []
    for given in inputs:
        found += _find(given, without)
    first: dict[str, Found] = {}
    for file in found:
        other = first.setdefault(file.uri if "://" in file.uri else os.path.realpath(file.uri), file)
        # Within one input, a link to a file is a document of its own, as a copy is.
        if other is not file and (other.given != file.given or other.uri == file.uri):
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
    local = is_local(fs)
    return [
        Found(given, file if local else _uri(given, fs, root, file), file.removeprefix(root).lstrip("/"))
        for file in (_once(files) if local else files)
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
    if other != fs:
        return files
    if not is_local(fs):
        return [file for file in files if not file.startswith(f"{path.rstrip('/')}/")]
    real, place = _real_folders(files), os.path.realpath(path)
    return [file for file in files if not f"{real[posixpath.dirname(file)]}/".startswith(f"{place}/")]


def _once(files: list[str]) -> list[str]:
    """Local files without those to which a link to a folder leads once more.

    The way with fewer links stays, so that such a link beside its folder changes no made-up id.
    """
    real = _real_folders(files)
    links = {folder: sum(map(os.path.islink, PurePosixPath(folder, "_").parents)) for folder in real}
    first: dict[str, str] = {}
    for file in sorted(files, key=lambda file: links[posixpath.dirname(file)]):
        folder, name = posixpath.split(file)
        first.setdefault(f"{real[folder]}/{name}", file)
    return sorted(first.values())


def _real_folders(files: list[str]) -> dict[str, str]:
    """Where the folders of local files lie once links and `..` are followed."""
    return {folder: os.path.realpath(folder) for folder in set(map(posixpath.dirname, files))}


class _LocalFolders(LocalFileSystem):  # type: ignore[misc]  # fsspec has no type stubs
    """Local files where they are searched: fsspec takes a folder that cannot be listed for empty, and follows no links.

    Here the former is a UsageError, and a link to a folder is a folder unless it leads to one that it lies in. Hidden
    folders below `root` are empty unless `hidden`.
    """

    cachable = False

    def __init__(self, root: str, hidden: bool) -> None:
        super().__init__()
        self._searched, self._hidden = root, hidden

    def ls(self, path: str, detail: bool = False, **_: Any) -> list[Any]:
        if not self._hidden and "/." in path.removeprefix(self._searched):
            return []
        try:
            infos: list[dict[str, Any]] = super().ls(path, detail=True)
        except FileNotFoundError:  # the input names nothing, which `_find` tells
            raise
        except OSError as error:  # as such, fsspec would swallow it
            reason = error.strerror or error
            raise UsageError(f"{path}: the folder cannot be listed: {reason}; make it readable, or move it") from None
        for info in infos:
            if info["islink"] and os.path.isdir(info["name"]) and not _leads_up(info["name"]):
                info["type"] = "directory"
        return infos if detail else [info["name"] for info in infos]


def _leads_up(link: str) -> bool:
    """Whether a link leads to a folder that it lies in, and so in circles."""
    target = os.path.realpath(link)
    return any(os.path.realpath(folder) == target for folder in PurePosixPath(link).parents)


def _searched(fs: Any, root: str, hidden: bool = False) -> Any:
    return _LocalFolders(root, hidden) if is_local(fs) else fs


def _in_folder(fs: Any, folder: str) -> list[str]:
    files = [file for file in _searched(fs, folder).find(folder) if suffix(file)]
    return sorted(file for file in files if "/." not in file.removeprefix(folder))


def _glob(fs: Any, pattern: str) -> tuple[str, list[str]]:
    """The folder before the first wildcard, and the files that match or lie in a folder that matches.

    As in a shell, hidden files and folders match only a pattern that names a dot.
    """
    parts = pattern.split("/")
    fixed = next(i for i, part in enumerate(parts) if fsspec.core.has_magic(part))
    root, hidden = "/".join(parts[:fixed]), any(part.startswith(".") for part in parts[fixed:])
    files: set[str] = set()
    for path, info in _searched(fs, root, hidden).glob(pattern, detail=True).items():
        if hidden or "/." not in path.removeprefix(root):
            files.update([path] if info["type"] == "file" else _in_folder(fs, path))
    return root, sorted(files)
