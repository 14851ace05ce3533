"""The output folder: a group's results appear as a whole, by one rename, and are never seen in part.

`replies/0000/012/` holds group 12: ID.json and the sound for each query, and `timings.jsonl`. It is made in `.aside/` under a
name of its own; what a killed process left there is thrown away by the next run.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omni.batch import groups
from omni.errors import OutputError, UsageError
from omni.files import disk_errors

ASIDE, DESCRIPTION, TIMINGS = ".aside", "batch.json", "timings.jsonl"
#: A replaced group waits under this name until the new one stands in its place.
_OLD = "old"


@dataclass(frozen=True)
class Kept:
    """A query's results: the record, its times, and the bytes of its sound or the file that holds them already."""

    record: dict[str, Any]
    timings: dict[str, Any]
    sound: bytes | Path | None = None


# -- what may fail on a disk: the tests let each of these fail ----------------------------------------------------------


def write_file(path: Path, data: bytes) -> None:
    """Write a new file down to the disk."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def rename(source: Path, target: Path) -> None:
    """Give a folder or a file its name, for good."""
    os.rename(source, target)
    descriptor = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- the folder --------------------------------------------------------------------------------------------------------


@contextmanager
def opened(out: Path, description: dict[str, Any]) -> Iterator[None]:
    """Hold the output folder for one run, make it if need be and put it in order.

    OutputError for a folder that cannot be written, that another run holds or that holds something else; UsageError when it
    belongs to another list of queries or other options.
    """
    with disk_errors(out):
        try:
            out.mkdir(parents=True, exist_ok=True)
            lock = (out / ".lock").open("a")
        except (FileExistsError, NotADirectoryError) as error:
            raise OutputError(f"{out} is a file; give the name of a folder") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise OutputError(f"another run is writing to {out}; wait for it or give another folder") from error
            _describe(out, description)
            _tidy(out)
            yield


def _describe(out: Path, description: dict[str, Any]) -> None:
    path = out / DESCRIPTION
    if path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise OutputError(f"{path} is damaged ({error}); give a new folder") from error
        wrong = [key for key in description if not isinstance(found, dict) or found.get(key) != description[key]]
        if wrong:
            raise UsageError(
                f"{out} holds replies for another {', '.join(wrong)}; give a new folder, or the same input and options "
                "to go on"
            )
        return
    strange = sorted(p.name for p in out.iterdir() if p.name not in (".lock", ASIDE))
    if strange:
        raise OutputError(f"{out} is not empty ({strange[0]}) and holds no batch; give a new folder")
    shutil.rmtree(out / ASIDE, ignore_errors=True)
    (out / ASIDE).mkdir()
    written = out / ASIDE / DESCRIPTION
    write_file(written, (json.dumps(description, indent=2, sort_keys=True) + "\n").encode())
    rename(written, path)


def _tidy(out: Path) -> None:
    """Bring back a group that was being replaced when the run was killed; throw away what is half made."""
    (out / ASIDE).mkdir(exist_ok=True)
    for left in sorted((out / ASIDE).iterdir()):
        number, _, kind = left.name.partition(".")
        if kind == _OLD and number.isdigit() and not finished(out, int(number)):
            rename(left, out / groups.folder(int(number)))
        elif left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


# -- groups ------------------------------------------------------------------------------------------------------------


def finished(out: Path, number: int) -> bool:
    """Whether a group's results are there."""
    return (out / groups.folder(number)).is_dir()


def write_group(out: Path, number: int, results: Iterable[Kept], suffix: str, replace: bool = False) -> None:
    """Write a group's results as they come and give them their place; one that stands there stays, unless `replace`.

    OutputError for a disk that is full or read-only; nothing is seen of the group then.
    """
    place = groups.folder(number)
    aside = out / ASIDE / f"{number:09}.{os.getpid()}-{secrets.token_hex(4)}"
    with disk_errors(out):
        try:
            aside.mkdir()
            timings = [_write(aside, place, kept, suffix) for kept in results]
            write_file(aside / TIMINGS, b"".join(timings))
            (out / place).parent.mkdir(parents=True, exist_ok=True)
            _publish(aside, out / place, out / ASIDE / f"{number:09}.{_OLD}", replace)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _write(aside: Path, place: Path, kept: Kept, suffix: str) -> bytes:
    name = kept.record["id"]
    file = None if kept.sound is None else (place / f"{name}{suffix}").as_posix()
    if isinstance(kept.sound, Path):
        os.link(kept.sound, aside / f"{name}{suffix}")
    elif kept.sound is not None:
        write_file(aside / f"{name}{suffix}", kept.sound)
    text = json.dumps(kept.record | {"file": file}, ensure_ascii=False, indent=2, allow_nan=False)
    write_file(aside / f"{name}.json", f"{text}\n".encode("utf-8", "replace"))
    return (json.dumps({"id": name} | kept.timings) + "\n").encode()


def _publish(aside: Path, target: Path, old: Path, replace: bool) -> None:
    if replace and target.is_dir():
        rename(target, old)
    try:
        rename(aside, target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise  # else another process did the same group, with the same result
    if replace:
        shutil.rmtree(old, ignore_errors=True)


def records(out: Path, number: int, ids: Iterable[str]) -> list[dict[str, Any]]:
    """The records of a finished group, in order. OutputError if the folder was tampered with."""
    folder = out / groups.folder(number)
    return [_json(folder / f"{name}.json") for name in ids]


def timings(out: Path, number: int) -> list[dict[str, Any]]:
    """The times of a finished group's queries, in order. OutputError if the folder was tampered with."""
    path = out / groups.folder(number) / TIMINGS
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise _missing(path, error) from error


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _missing(path, error) from error


def _missing(path: Path, error: Exception) -> OutputError:
    return OutputError(f"{path} is missing or damaged ({error}); delete its folder and run again: it is made anew")
