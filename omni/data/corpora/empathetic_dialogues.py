"""EmpatheticDialogues (Rashkin et al. 2019, ACL): written talks about a feeling, 32 of them, CC BY-NC 4.0.

The public layout: `train.csv` (valid, test) with conv_id, utterance_idx, context, prompt, speaker_idx, utterance, selfeval,
tags; commas within a text are written `_comma_`, and some rows hold more fields than the header.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omni.errors import DataError

PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class Talk:
    """One talk: who began it tells of `situation`, felt as `emotion`; `turns` in order, the teller's first."""

    id: str
    emotion: str
    situation: str
    turns: tuple[str, ...]


def read(folder: Path, part: str = "train") -> list[Talk]:
    """All talks of a part. DataError if the table is missing or holds no talk."""
    path = folder / f"{part}.csv"
    if part not in PARTS or not path.is_file():
        raise DataError(f"no {path.name} in {folder}: parts are {', '.join(PARTS)}; check --data")
    talks: dict[str, tuple[str, str, list[tuple[int, str]]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        fields = line.split(",")
        if len(fields) < 6 or not fields[1].isdigit():
            continue
        name, place, emotion, situation, _, said = (f.replace("_comma_", ",").strip() for f in fields[:6])
        talks.setdefault(name, (emotion, situation, []))[2].append((int(place), said))
    found = [Talk(n, e, s, tuple(t for _, t in sorted(turns))) for n, (e, s, turns) in talks.items()]
    if not found:
        raise DataError(f"{path} holds no talks; it is no table of EmpatheticDialogues")
    return found
