"""LibriSpeech (Panayotov et al. 2015, ICASSP): read English, CC BY 4.0.

The public layout: `train-clean-100/1088/134315/1088-134315-0000.flac` beside `1088-134315.trans.txt`, whose lines are an id
and the words in capitals.
"""

from __future__ import annotations

from pathlib import Path

from omni.data.manifest import Clip
from omni.errors import DataError


def read(folder: Path) -> list[Clip]:
    """All clips below `folder` (one part of the set or the whole). DataError if there is none, or one lacks its file."""
    clips = []
    for path in sorted(folder.rglob("*.trans.txt")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            name, _, text = line.partition(" ")
            if not line.strip():
                continue
            audio = path.parent / f"{name}.flac"
            if not text or not audio.is_file():
                raise DataError(f"{path}:{number}: no words or no {audio.name} beside it; unpack the set again")
            clips.append(Clip(name, audio, name.split("-")[0], text))
    if not clips:
        raise DataError(
            f"no LibriSpeech clips below {folder}: expected 1088/134315/1088-134315.trans.txt; check --data"
        )
    return clips
