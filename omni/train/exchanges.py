"""Spoken exchanges to learn from: a query's sound, words and tone, the thought, the reply in words and its sound.

A manifest row is a clip (`data/manifest.py`) with `reply`, and where there is one `reply_audio` (relative to the manifest) and
`plan` (need, strategy, intent, style). Manifests and shards may be mixed by weight.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from omni.data.manifest import Clip, read
from omni.errors import DataError
from omni.text import FIELDS
from omni.train.streams import endless
from omni.turns import EMOTIONS

PLAN = ("need", "strategy", "intent", "style")


@dataclass(frozen=True)
class Spoken:
    """One exchange; `reply_sound` (a file, or its bytes) and `plan` are None where the row has none."""

    query: Clip
    reply: str
    reply_sound: Path | bytes | None
    plan: dict[str, str] | None


def exchange(clip: Clip, longest_s: float) -> Spoken | None:
    """The exchange of a row with words, a known emotion, a reply, and at most `longest_s`; else None.

    DataError names a plan that is wrong.
    """
    reply, plan = clip.extra.get("reply"), clip.extra.get("plan")
    if not (clip.text and reply and clip.emotion in EMOTIONS and 0 < clip.duration_s <= longest_s):
        return None
    wrong = [f for f in PLAN if plan.get(f) not in FIELDS[f]] if plan is not None else []
    if plan is not None and wrong:
        allowed = ", ".join(FIELDS[wrong[0]])
        raise DataError(f"{clip.audio}, {clip.id}: plan.{wrong[0]} {plan.get(wrong[0])!r}; choose from {allowed}")
    return Spoken(clip, str(reply), clip.reply_source, plan)


def load_exchanges(path: Path, longest_s: float) -> list[Spoken]:
    """All exchanges of a manifest. DataError names a plan or file that is wrong, and a manifest without any."""
    found = [x for clip in read(path) if (x := exchange(clip, longest_s)) is not None]
    for x in found:
        if isinstance(x.reply_sound, Path) and not x.reply_sound.is_file():
            raise DataError(f"{path}, {x.query.id}: no reply_audio at {x.reply_sound}")
    if not found:
        raise DataError(f"{path} has no exchange: a row needs audio, duration_s, text, reply and emotion (one of ours)")
    return found


def drawn(exchanges: Sequence[Spoken], chance: random.Random) -> Iterator[Spoken]:
    """One after the other, without end."""
    while True:
        yield chance.choice(exchanges)


def streamed(pattern: str, seed: int, longest_s: float) -> Iterator[Spoken]:
    """Those of shards, without end."""
    return (x for clip in endless(pattern, seed) if (x := exchange(clip, longest_s)) is not None)
