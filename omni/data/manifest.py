"""Manifests: JSONL, one row a clip, `audio` relative to the manifest's folder; read with every bad row reported."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omni.errors import DataError


@dataclass(frozen=True)
class Clip:
    """One recording. `audio` absolute; `duration_s` 0 when the manifest does not say.

    `sound` is the recording's file itself where it came from a shard and not from a folder; `audio` then only names it.
    `reply_audio` and `reply_sound` are the same of a spoken reply to it.
    """

    id: str
    audio: Path
    speaker: str
    text: str | None = None
    emotion: str | None = None
    intensity: str | None = None
    duration_s: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)
    sound: bytes | None = field(default=None, repr=False)
    reply_audio: Path | None = None
    reply_sound: bytes | None = field(default=None, repr=False)

    @property
    def source(self) -> Path | bytes:
        """What `load_clip` reads."""
        return self.audio if self.sound is None else self.sound

    @property
    def reply_source(self) -> Path | bytes | None:
        """What `load_clip` reads of the reply; None if it has no sound."""
        return self.reply_audio if self.reply_sound is None else self.reply_sound


_SOUNDS = {"audio", "sound", "reply_audio", "reply_sound", "extra"}
_KNOWN = {"id", "speaker", "text", "emotion", "intensity", "duration_s"}


def read(path: Path) -> list[Clip]:
    """All clips of a manifest. DataError names the file, the line and what is missing."""
    if not path.is_file():
        raise DataError(f"no manifest at {path}; give its folder with --data or OMNI_DATA (see docs/training.md)")
    clips, seen = [], set()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            spoken = row.get("reply_audio")
            clip = from_row(row, path.parent / row["audio"], reply_audio=spoken and path.parent / spoken)
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path}:{number}: not a clip ({error}); a row needs at least id, audio, speaker"
            ) from error
        if clip.id in seen:
            raise DataError(f"{path}:{number}: id {clip.id!r} appears twice; ids must be unique")
        seen.add(clip.id)
        clips.append(clip)
    if not clips:
        raise DataError(f"{path} has no rows")
    return clips


def from_row(row: dict[str, Any], audio: Path, **sounds: Any) -> Clip:
    """The clip of a row whose sound is elsewhere (`sounds`: see `Clip`). TypeError where an id or a speaker is missing."""
    known = {k: row[k] for k in _KNOWN & row.keys()}
    extra = {k: row[k] for k in row.keys() - _KNOWN - _SOUNDS}
    return Clip(**{**known, "audio": audio}, extra=extra, **sounds)


def as_row(clip: Clip) -> dict[str, Any]:
    """All that a row says of a clip but where its sound is."""
    row = {k: v for k, v in vars(clip).items() if k not in _SOUNDS and v is not None}
    return row | clip.extra


def write(path: Path, clips: Iterable[Clip]) -> None:
    """Write a manifest whose audio paths are relative to its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for clip in clips:
            row = as_row(clip)
            row = {"id": row.pop("id"), "audio": str(clip.audio.relative_to(path.parent)), **row}
            if clip.reply_audio:
                row["reply_audio"] = str(clip.reply_audio.relative_to(path.parent))
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def by_speaker(clips: Iterable[Clip], held_out: set[str]) -> tuple[list[Clip], list[Clip]]:
    """(others, those of `held_out` speakers); no speaker is in both."""
    kept: list[Clip] = []
    held: list[Clip] = []
    for clip in clips:
        (held if clip.speaker in held_out else kept).append(clip)
    return kept, held


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a plain or gzipped JSONL text corpus."""
    import gzip

    if not path.is_file():
        raise DataError(f"no corpus at {path}; give its folder with --data or OMNI_DATA (see docs/training.md)")
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
