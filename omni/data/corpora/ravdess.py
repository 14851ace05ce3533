"""RAVDESS speech (Livingstone and Russo 2018, PLoS ONE 13(5)): 24 actors, two sentences, eight emotions, CC BY-NC-SA 4.0.

Reads `all.jsonl` where there is one, else the public layout: `Actor_01/03-01-06-02-01-01-01.wav`, whose fields are
modality, channel, emotion, intensity, sentence, repetition, actor.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from omni.data.manifest import Clip
from omni.data.manifest import read as read_manifest
from omni.errors import DataError
from omni.turns import EMOTIONS

SENTENCES = {"01": "KIDS ARE TALKING BY THE DOOR", "02": "DOGS ARE SITTING BY THE DOOR"}
_INTENSITIES = {"01": "normal", "02": "strong"}
_AUDIO_ONLY, _SPEECH = "03", "01"


def read(folder: Path) -> list[Clip]:
    """All speech clips of the set in `folder`, speakers named `actor-01`... DataError if none is there."""
    if (folder / "all.jsonl").is_file():
        clips = [replace(c, emotion=_ours(c.emotion)) for c in read_manifest(folder / "all.jsonl")]
    else:
        clips = [c for p in sorted(folder.glob("Actor_*/*.wav")) if (c := _clip(p)) is not None]
    if not clips:
        raise DataError(f"no RAVDESS clips in {folder}: expected all.jsonl or Actor_01/03-01-...wav; check --data")
    return clips


def _ours(emotion: str | None) -> str | None:
    """The set says disgust, we say disgusted."""
    return "disgusted" if emotion == "disgust" else emotion


def _clip(path: Path) -> Clip | None:
    """The clip of a public file name; None for songs, video and names that do not parse."""
    fields = path.stem.split("-")
    if len(fields) != 7 or fields[:2] != [_AUDIO_ONLY, _SPEECH]:
        return None
    emotion, intensity, sentence, _, actor = fields[2:]
    if not (emotion.isdigit() and 1 <= int(emotion) <= len(EMOTIONS)) or intensity not in _INTENSITIES:
        return None
    name = EMOTIONS[int(emotion) - 1]  # RAVDESS numbers them in the order of EMOTIONS
    return Clip(path.stem, path, f"actor-{actor}", SENTENCES.get(sentence), name, _INTENSITIES[intensity])
