"""Manifests of queries: JSONL, or CSV with a header, a row a query; `audio` is relative to the manifest's folder."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omni.batch.queries import Query, from_row
from omni.errors import DataError

#: The longest line that is read.
LONGEST_LINE = 1_000_000


def read_rows(path: Path) -> Iterator[Query]:
    """Every row in order. DataError names the file and the line."""
    folder = path.parent
    rows = _csv(path) if path.suffix.lower() == ".csv" else _jsonl(path)
    for number, row in rows:
        yield from_row(row, f"{path}:{number}", lambda audio: str(folder / audio))


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            while line := file.readline(LONGEST_LINE + 1):
                if len(line) > LONGEST_LINE:
                    raise DataError(f"{path} has a line of more than {LONGEST_LINE:,} characters; is it a manifest?")
                yield line
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); a manifest is a text file in UTF-8") from error


def _jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number}: not JSON ({error}); give one object a line") from error


def _csv(path: Path) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(_lines(path))
    try:
        if "audio" not in (reader.fieldnames or ()):
            raise DataError(f"{path}: the first line must name the columns: audio, and if wished id, style, history")
        for row in reader:
            if None in row:
                raise DataError(f"{path}:{reader.line_num}: more cells than columns; put texts with commas in quotes")
            yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not CSV ({error})") from error
