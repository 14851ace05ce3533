"""Common Voice (Ardila et al. 2020, LREC): sentences read by volunteers, CC0.

The public layout: `LANGUAGE/validated.tsv` (or train, dev, test) with the columns client_id, path, sentence, and `clips/*.mp3`.
"""

from __future__ import annotations

import csv
from pathlib import Path

from omni.data.manifest import Clip
from omni.errors import DataError


def read(folder: Path, part: str = "validated") -> list[Clip]:
    """Clips that `part`.tsv lists. DataError if the table is missing or lacks a column."""
    path = folder / f"{part}.tsv"
    if not path.is_file():
        raise DataError(f"no {path.name} in {folder}: give the folder of one language, for example en; check --data")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    missing = {"client_id", "path", "sentence"} - set(rows[0] if rows else {})
    if missing:
        raise DataError(f"{path} has no rows or no column {sorted(missing)[0]}; it is no table of Common Voice")
    return [
        Clip(Path(row["path"]).stem, folder / "clips" / row["path"], row["client_id"], row["sentence"]) for row in rows
    ]
