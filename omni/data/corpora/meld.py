"""MELD (Poria et al. 2019, ACL): turns of a television series with seven emotions, GPL-3.0 (the sound is the series').

The public layout: `train_sent_emo.csv` (dev, test) with Utterance, Speaker, Emotion, Dialogue_ID, Utterance_ID, and one clip
a turn, `train_splits/dia0_utt0.mp4`; sound taken out of it as .wav or .flac of the same name is read, too.
"""

from __future__ import annotations

import csv
from pathlib import Path

from omni.data.manifest import Clip
from omni.errors import DataError

EMOTIONS = {
    "anger": "angry", "disgust": "disgusted", "fear": "fearful", "joy": "happy", "neutral": "neutral", "sadness": "sad",
    "surprise": "surprised",
}  # fmt: skip
FOLDERS = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}


def read(folder: Path, part: str = "train") -> list[Clip]:
    """Turns of one part whose sound is there; `extra` has dialogue and turn. DataError if there is none."""
    path = folder / f"{part}_sent_emo.csv"
    if part not in FOLDERS or not path.is_file():
        raise DataError(f"no {path.name} in {folder}: parts are {', '.join(FOLDERS)}; check --data")
    clips = []
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            name = f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}"
            audio = _sound(folder / FOLDERS[part], name)
            if audio is not None and row["Emotion"] in EMOTIONS:
                extra = {"dialogue": int(row["Dialogue_ID"]), "turn": int(row["Utterance_ID"])}
                text = row["Utterance"].replace("\x92", "'")
                clips.append(Clip(f"{part}-{name}", audio, row["Speaker"], text, EMOTIONS[row["Emotion"]], extra=extra))
    if not clips:
        raise DataError(f"{folder / FOLDERS[part]} has no sound of the turns: expected dia0_utt0.mp4, .wav or .flac")
    return clips


def _sound(folder: Path, name: str) -> Path | None:
    return next((p for ending in ("wav", "flac", "mp4") if (p := folder / f"{name}.{ending}").is_file()), None)
