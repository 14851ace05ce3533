"""Writing files so that nobody ever sees half of one: a temporary name in the same folder, then a rename."""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from omni.errors import OutputError

_DISK_ERRORS = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "your disk quota is used up; free some space",
    errno.EFBIG: "the file would be larger than this system allows",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EIO: "the disk reported an error; choose another one",
    errno.EACCES: "you may not write there; choose another folder or change its permissions",
    errno.EPERM: "you may not write there; choose another folder or change its permissions",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}


def check_writable(path: Path | str, force: bool = False) -> Path:
    """The file that writing to `path` would make, links followed. Call it before long work, to fail early.

    Raises OutputError for a taken name (without `force`), a folder, something that is no regular file, a missing
    folder, and a folder that may not be written.
    """
    try:
        target = Path(os.path.realpath(path))
        mode = os.stat(target).st_mode if target.exists() else None
        folder_is_there = target.parent.is_dir()
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot write {str(path)!r}: {error}; give another name") from error
    if mode is not None and stat.S_ISDIR(mode):
        raise OutputError(f"{path} is a folder; give the name of a file in it")
    if mode is not None and not stat.S_ISREG(mode):
        raise OutputError(f"{path} is a device, pipe or socket; only regular files are written")
    if mode is not None and not force:
        raise OutputError(f"{path} exists already; give another name, or --force to replace it")
    if not folder_is_there:
        raise OutputError(f"there is no folder {target.parent}; make it first: mkdir -p {target.parent}")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise OutputError(f"the folder {target.parent} is read-only; choose another one or change its permissions")
    return target


@contextmanager
def atomic_write(path: Path | str, force: bool = False) -> Iterator[Path]:
    """Context manager that gives a temporary path to write to; it takes the name `path` when the block ends well.

    When the block raises anything at all the temporary file is removed and `path` is as it was. Without `force` a
    file that appeared in the meantime is not replaced either. OutputError as in `check_writable`, and for a full disk.
    """
    target = check_writable(path, force)
    temporary = target.with_name(f".{target.name[:80]}.{secrets.token_hex(6)}.part")
    with disk_errors(path):
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))  # the umask decides, as for open()
        try:
            yield temporary
            _publish(temporary, target, force)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextmanager
def disk_errors(path: Path | str) -> Iterator[None]:
    """Context manager that turns a full or read-only disk and the like into OutputError; `path` is named."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise OutputError(f"cannot write {path}: {_DISK_ERRORS[error.errno]} ({error.strerror})") from error


def _publish(temporary: Path, target: Path, force: bool) -> None:
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # some disks report that they are full only here
    finally:
        os.close(descriptor)
    if force:
        os.replace(temporary, target)
        return
    try:
        os.link(temporary, target)  # unlike a rename, this never replaces a file
    except FileExistsError as error:
        raise OutputError(f"{target} exists already; give another name, or --force to replace it") from error
    except OSError:  # a file system without hard links
        check_writable(target)
        os.replace(temporary, target)


def write_bytes(path: Path | str, data: bytes, force: bool = False) -> None:
    """Write a whole file or nothing. OutputError as in `atomic_write`."""
    with atomic_write(path, force) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path | str, text: str, force: bool = False) -> None:
    """Write a whole UTF-8 text file or nothing. OutputError as in `atomic_write`."""
    write_bytes(path, text.encode("utf-8"), force)


def write_json(path: Path | str, value: Any, force: bool = False) -> None:
    """Write a value as indented JSON (no NaN) with a final newline, whole or not at all."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n", force)
