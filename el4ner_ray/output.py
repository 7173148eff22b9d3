"""Opening an output folder: resume what fits, refuse what does not, never write over what is there."""

from __future__ import annotations

import json
import logging
import posixpath
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from filelock import FileLock, Timeout

from el4ner_ray.accounting import Committed
from el4ner_ray.errors import FatalError, UsageError
from el4ner_ray.files import file_system, is_local
from el4ner_ray.fingerprint import comparable, fingerprint
from el4ner_ray.results import RUN_FILE, decoded_run
from el4ner_ray.sink import ANNOTATIONS, ERRORS, Place

logger = logging.getLogger(__name__)

RETRY = "retry"  # folder of a retry's answers until they are merged
_LOCK = ".lock"

# What a killed run leaves in the folder itself; exports that are being written there have other names.
_UNFINISHED = re.compile(rf"\.{re.escape(RUN_FILE)}\.\w+\.part|\.index\.\w+\.building")


@contextmanager
def alone(place: Place) -> Iterator[None]:
    """Keep other runs out of an output folder of the local file system while the block runs; makes the folder.

    The operating system takes the lock from a process that ends, however it does; its file stays. Raises UsageError
    where another run holds it, or the folder cannot be written to.
    """
    filesystem, root = file_system(place.uri)
    if not is_local(filesystem):
        yield
        return
    # A file that stands for a lock, where there are none, would outlive a run that is killed.
    lock = FileLock(posixpath.join(root, _LOCK), fallback_to_soft=False)
    try:
        filesystem.makedirs(root, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise UsageError(
            f"--output {place.uri}: another run writes into it; wait for it or give another folder"
        ) from None
    except (OSError, NotImplementedError) as error:
        _check_writable(place)
        logger.warning("--output %s: cannot be locked (%s); let no other run write into it", place.uri, error)
    try:
        yield
    finally:
        lock.release()


def open_output(place: Place, fields: Mapping[str, Any], *, resume: bool, force: bool) -> Committed:
    """What is done already.

    Args:
        place: The output folder.
        fields: What decides the annotations; it must be what the folder's earlier run had.
        resume: False refuses a folder that holds annotations.
        force: Moves what is there into `superseded-TIME/` and starts anew.

    Raises:
        UsageError: The folder cannot be written to, or holds annotations of another configuration, or any with
            `resume` false.
    """
    _check_writable(place)
    if force and (place.files(ANNOTATIONS, ".parquet") or place.read(RUN_FILE)):
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        place.move_aside((ANNOTATIONS, ERRORS, RUN_FILE, RETRY), f"superseded-{stamp}")
    if not place.files(ANNOTATIONS, ".parquet"):
        sweep(place)
        return Committed()
    if not resume:
        raise UsageError(f"--output {place.uri}: holds annotations; resume them, name another folder, or use --force")
    earlier = read_run(place)
    if earlier is None:
        raise UsageError(
            f"--output {place.uri}: holds annotations but no {RUN_FILE}; name another folder or use --force"
        )
    check_fingerprint(place, earlier, fields)
    sweep(place)
    return Committed.of(place)


def check_fingerprint(place: Place, earlier: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    """Raise UsageError, naming what changed, unless the folder's `earlier` run had the same deciding `fields`."""
    if not earlier.keys() >= {"fingerprint", "fingerprint_fields"}:
        raise UsageError(f"--output {place.uri}: its {RUN_FILE} has no fingerprint; name another folder or use --force")
    before, now = comparable(earlier["fingerprint_fields"]), comparable(fields)
    if fingerprint(before) != fingerprint(now):
        changed = ", ".join(differences(before, now))
        raise UsageError(
            f"--output {place.uri}: was written with a different {changed}; "
            "restore it, name another folder, or start anew with --force (the old output is kept beside)"
        )


def check_columns(place: Place, earlier: Mapping[str, str], columns: Mapping[str, str]) -> None:
    """Raise UsageError where a column of the input is to go out as another type than the folder's files have.

    Both as `Corpus.columns`. Files of which one has numbers and another strings could not be read together.
    """
    for name, type_ in columns.items():
        if earlier.get(name, type_) != type_:
            raise UsageError(
                f"--output {place.uri}: its column {name!r} holds {earlier[name]}, that of the input {type_} now; "
                "convert it, name another folder, or start anew with --force (the old output is kept beside)"
            )


def _check_writable(place: Place) -> None:
    try:
        for folder in (ANNOTATIONS, ERRORS):
            place.write(f"{folder}/.writable", b"")
            place.remove(f"{folder}/.writable")
    except FatalError as error:
        raise UsageError(f"--output {error}; make the folder writable, or name another") from None


def sweep(place: Place) -> None:
    """Remove what killed writers left: unfinished files, and errors whose annotations were never committed."""
    committed = {posixpath.basename(path) for path in place.files(ANNOTATIONS, ".parquet")}
    left = [(folder, path) for folder in (ANNOTATIONS, ERRORS) for path in place.unfinished(folder)]
    left += [("", path) for path in place.unfinished("") if _UNFINISHED.fullmatch(posixpath.basename(path))]
    left += [(ERRORS, path) for path in place.files(ERRORS, ".parquet") if posixpath.basename(path) not in committed]
    for folder, path in left:
        place.remove(posixpath.join(folder, posixpath.basename(path)))


def read_run(place: Place) -> dict[str, Any] | None:
    """The folder's run.json; None when there is none. Raises UsageError where it is no JSON object."""
    content = place.read(RUN_FILE)
    return None if content is None else decoded_run(content, place.uri, dict[str, Any])


def write_run(place: Place, run: Mapping[str, Any]) -> None:
    """Replace the folder's run.json."""
    place.write(RUN_FILE, json.dumps(run, indent=2, ensure_ascii=False).encode())


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Dotted names of the fields in which two configurations differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = sorted(old.keys() | new.keys())
        return [
            name
            for key in keys
            for name in differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        ]
    # A round trip through JSON turns tuples into lists.
    return [] if json.dumps(old, sort_keys=True) == json.dumps(new, sort_keys=True) else [path]
