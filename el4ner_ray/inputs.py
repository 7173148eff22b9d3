"""Finding the input files that files, folders, globs and URIs name."""

from __future__ import annotations

import heapq
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import fsspec
from fsspec.utils import glob_translate

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
    folder that cannot be listed, for a pipe among local files, and for a file named twice.
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
    local = is_local(fs)
    for file in files:
        if suffix(file) is None:
            if local and os.path.islink(file) and not os.path.exists(file):
                raise UsageError(f"{file}: a link that leads nowhere; mend it, or remove it")
            raise UsageError(f"{file}: unknown suffix; it takes {known}")
        if local and not os.path.isfile(file) and os.path.exists(file):  # reading a pipe would wait for ever
            raise UsageError(f"{file}: a pipe, socket or device, not a file; move it, or write what it gives to a file")
        if not encodable(file):
            raise UsageError(f"{file!r}: the file name is not UTF-8; rename the file")
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


def _in_folder(fs: Any, folder: str) -> list[str]:
    found: Iterable[str]
    if is_local(fs):
        found = (entry.path for _, entries in _walk(folder) for entry in entries if not _is_folder(entry))
    else:
        found = fs.find(folder)
    return sorted(file for file in found if suffix(file) and "/." not in file.removeprefix(folder))


def _glob(fs: Any, pattern: str) -> tuple[str, list[str]]:
    """The folder before the first wildcard, and the files that match or lie in a folder that matches.

    As in a shell, hidden files and folders match only a pattern that names a dot.
    """
    parts = pattern.split("/")
    fixed = next(i for i, part in enumerate(parts) if fsspec.core.has_magic(part))
    root, hidden = "/".join(parts[:fixed]), any(part.startswith(".") for part in parts[fixed:])
    files: set[str] = set()
    if is_local(fs):
        for path in _matching(root or "/", parts[fixed:], hidden):
            files.update(_in_folder(fs, path) if os.path.isdir(path) else [path])
    else:
        for path, info in fs.glob(pattern, detail=True).items():
            if hidden or "/." not in path.removeprefix(root):
                files.update([path] if info["type"] == "file" else _in_folder(fs, path))
    return root, sorted(files)


def _matching(folder: str, parts: Sequence[str], hidden: bool) -> Iterator[str]:
    """What matches the parts of a pattern, from a local folder on; some of it twice where the pattern has several `**`.

    A link that a part names is followed wherever it leads; one that a wildcard finds, unless it leads up.
    """
    part, *rest = parts
    matches = re.compile(glob_translate(part)).match
    if part == "**":
        for way, _ in _walk(folder, hidden):
            yield from _matching(way, rest or ["*"], hidden)
        return
    above = _above(folder) if fsspec.core.has_magic(part) else set()
    for entry in _entries(folder, hidden):
        if not matches(entry.name) or (entry.is_symlink() and os.path.realpath(entry.path) in above):
            continue
        if not rest:
            yield entry.path
        elif _is_folder(entry):
            yield from _matching(entry.path, rest, hidden)


def _walk(root: str, hidden: bool = False) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    """Each local folder from `root` on, once, and what is in it.

    Of the ways to it, that with the fewest links counts, and of several the first by name. Links to what `root` lies in
    are not followed. By every way through folders that link to each other, there would be no end of it.
    """
    above, seen = _above(root), set[str]()
    ways = [(0, posixpath.join(root, ""), os.path.realpath(root))]
    while ways:
        links, way, real = heapq.heappop(ways)
        if real in seen:
            continue
        seen.add(real)
        entries = _entries(way, hidden)
        yield way, entries
        for entry in filter(_is_folder, entries):
            if not entry.is_symlink():
                heapq.heappush(ways, (links, f"{entry.path}/", posixpath.join(real, entry.name)))
            elif (target := os.path.realpath(entry.path)) not in above:
                heapq.heappush(ways, (links + 1, f"{entry.path}/", target))


def _above(folder: str) -> set[str]:
    """Where a local folder lies, and all that it lies in: links to them lead in circles."""
    return {os.path.realpath(parent) for parent in PurePosixPath(folder, "_").parents}


def _entries(folder: str, hidden: bool) -> list[os.DirEntry[str]]:
    """What is in a local folder. Raises UsageError where it cannot be listed."""
    try:
        # Not by fsspec, which takes a link for no folder, and a folder that cannot be listed for an empty one.
        with os.scandir(folder) as entries:
            return [entry for entry in entries if hidden or not entry.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):  # the input names nothing, which `_find` tells
        return []
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(
            f"{folder.rstrip('/')}: the folder cannot be listed: {reason}; make it readable, or move it"
        ) from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # Not `is_dir()`, which raises OSError for a link that leads to itself.
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path))
