"""Tar shards in the WebDataset layout: `KEY.wav` beside `KEY.json`, a manifest's row. Only headers and rows are read here;
a recording is read from its place when its turn has come."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omni.batch.queries import SUFFIXES, Query, from_row
from omni.errors import DataError

#: The largest row that is read.
LARGEST_ROW_BYTES = 1_000_000


def read_tars(paths: list[Path]) -> Iterator[Query]:
    """The queries of the shards, shard after shard. DataError for one that is damaged, cut short or compressed."""
    for path in paths:
        try:
            with tarfile.open(path, "r:") as tar:
                yield from _queries(tar, path)
        except (tarfile.TarError, OSError, EOFError) as error:
            raise DataError(f"{path} is no plain tar file, or is damaged ({error}); fetch or pack it again") from error


def _queries(tar: tarfile.TarFile, path: Path) -> Iterator[Query]:
    size = path.stat().st_size
    key, sound, row = None, None, dict[str, Any]()
    for member in tar:
        vars(tar)["members"] = []  # or tarfile keeps every header
        folder, _, name = member.name.rpartition("/")
        stem, dot, kind = name.partition(".")
        kind = kind.lower()
        if not member.isreg() or not dot or not (kind == "json" or f".{kind}" in SUFFIXES):
            continue  # folders, and what belongs to a reply
        if member.offset_data + member.size > size:
            raise DataError(f"{path} is cut short within {member.name!r}; fetch or pack it again")
        if (folder, stem) != key:
            if key is not None:
                yield _query(path, key[1], sound, row)
            key, sound, row = (folder, stem), None, {}
        if kind == "json":
            row = _row(tar, member, path)
        elif sound is None:
            sound = (f"{stem}.{kind}", member.offset_data, member.size)
        else:
            raise DataError(f"{path}: {key[1]} has two recordings; one query is one recording")
    if key is not None:
        yield _query(path, key[1], sound, row)


def _row(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> dict[str, Any]:
    if member.size > LARGEST_ROW_BYTES:
        raise DataError(f"{path}: {member.name} has {member.size} bytes; at most {LARGEST_ROW_BYTES} are read")
    file = tar.extractfile(member)
    assert file is not None
    try:
        row = json.loads(file.read())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: {member.name} is no JSON ({error})") from error
    if not isinstance(row, dict):
        raise DataError(f"{path}: {member.name} is no row; give an object")
    return row


def _query(path: Path, key: str, sound: tuple[str, int, int] | None, row: dict[str, Any]) -> Query:
    if sound is None:
        raise DataError(f"{path}: {key} has a row and no recording; pack it again")
    name, offset, size = sound
    return from_row(
        {**row, "audio": name, "id": row.get("id") or key}, f"{path}: {key}", lambda _: str(path), (offset, size)
    )
