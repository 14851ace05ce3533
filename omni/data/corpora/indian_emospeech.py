"""Indian EmoSpeech Command Dataset (Banga et al. 2019, arXiv 1910.13801): commands in real places, CC BY-NC-SA 4.0.

Reads `subset.jsonl` where there is one, else the public layout: `PLACE/keyword-environment-emotion-time-user.wav`,
where the last field is a hash that stands for the speaker.
"""

from __future__ import annotations

from pathlib import Path

from omni.data.manifest import Clip
from omni.data.manifest import read as read_manifest
from omni.errors import DataError

#: The only emotions that the set labels; nothing is known about the other four.
EMOTIONS = ("calm", "happy", "angry", "fearful")
#: The hash that the set's authors give to every speaker they could not tell: never use it to split by speaker.
UNKNOWN_SPEAKER = "d14a028c2a3a2bc9476102bb288234c415a2b01f828ea62ac5b3e42f"
_NOT_WORDS = ("unknown", "background")


def read(folder: Path) -> list[Clip]:
    """All clips with one of EMOTIONS in `folder`. DataError if none is there."""
    if (folder / "subset.jsonl").is_file():
        clips = [c for c in read_manifest(folder / "subset.jsonl") if c.emotion in EMOTIONS]
    else:
        clips = [c for p in sorted(folder.glob("*/*.wav")) if (c := _clip(p)) is not None]
    if not clips:
        raise DataError(f"no Indian EmoSpeech clips in {folder}: expected subset.jsonl or PLACE/help-safe-calm-...wav")
    return clips


def _clip(path: Path) -> Clip | None:
    """The clip of a public file name; None for background sounds, other emotions and the unknown speaker."""
    fields = path.stem.split("-")
    if (
        len(fields) != 5
        or fields[2].lower() not in EMOTIONS
        or fields[0] == "background"
        or fields[4] == UNKNOWN_SPEAKER
    ):
        return None
    keyword, environment, emotion, _, user = fields
    text = None if keyword in _NOT_WORDS else keyword.upper()
    extra = {"place": path.parent.name, "environment": environment}
    return Clip(f"{path.parent.name}/{path.stem}", path, f"user-{user}", text, emotion.lower(), extra=extra)
