"""ESD (Zhou et al. 2022, Speech Communication 137): ten English and ten Mandarin speakers, five emotions, for research only.

The public layout: `0011/0011.txt` with lines of clip, text and emotion between tabs, and `0011/Angry/0011_000351.wav` (in some
copies below a further folder: train, evaluation, test).
"""

from __future__ import annotations

from pathlib import Path

from omni.data.manifest import Clip
from omni.errors import DataError

EMOTIONS = {"Angry": "angry", "Happy": "happy", "Neutral": "neutral", "Sad": "sad", "Surprise": "surprised"}
#: Speakers 0011 to 0020 speak English.
ENGLISH = tuple(f"{number:04}" for number in range(11, 21))


def read(folder: Path, speakers: tuple[str, ...] = ENGLISH) -> list[Clip]:
    """All clips of these speakers, named `esd-0011`... DataError if none is there."""
    clips = []
    for speaker in speakers:
        texts = _texts(folder / speaker / f"{speaker}.txt")
        for path in sorted((folder / speaker).rglob("*.wav")):
            emotion = next((EMOTIONS[p.name] for p in path.parents if p.name in EMOTIONS), None)
            if emotion is not None:
                clips.append(Clip(path.stem, path, f"esd-{speaker}", texts.get(path.stem), emotion))
    if not clips:
        raise DataError(f"no ESD clips in {folder}: expected 0011/Angry/0011_000351.wav; check --data")
    return clips


def _texts(path: Path) -> dict[str, str]:
    """Clip -> text; empty where the list is missing. The lists of some speakers are not in UTF-8."""
    if not path.is_file():
        return {}
    rows = (
        line.split("\t") for line in path.read_bytes().decode("utf-8", "replace").replace("\ufeff", "").splitlines()
    )
    return {row[0].strip(): row[1].strip() for row in rows if len(row) >= 2}
