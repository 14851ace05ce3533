"""Spoken exchanges to learn from: a query's sound, words and tone, the thought, the reply in words and its sound.

A manifest row is a clip (`data/manifest.py`) with `reply`, and where there is one `reply_audio` (relative to the manifest) and
`plan` (need, strategy, intent, style). Manifests may be mixed by weight.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omni.data.manifest import Clip, read
from omni.errors import DataError
from omni.text import FIELDS
from omni.turns import EMOTIONS

PLAN = ("need", "strategy", "intent", "style")


@dataclass(frozen=True)
class Spoken:
    """One exchange; `reply_audio` and `plan` are None where the manifest has none."""

    query: Clip
    reply: str
    reply_audio: Path | None
    plan: dict[str, str] | None


def load_exchanges(path: Path, longest_s: float) -> list[Spoken]:
    """Rows with words, a known emotion, a reply, and at most `longest_s`. DataError names a plan or file that is wrong."""
    found = []
    for clip in read(path):
        reply, sound, plan = (clip.extra.get(k) for k in ("reply", "reply_audio", "plan"))
        if not (clip.text and reply and clip.emotion in EMOTIONS and 0 < clip.duration_s <= longest_s):
            continue
        if plan is not None:
            wrong = [f for f in PLAN if plan.get(f) not in FIELDS[f]]
            if wrong:
                allowed = ", ".join(FIELDS[wrong[0]])
                raise DataError(f"{path}, {clip.id}: plan.{wrong[0]} {plan.get(wrong[0])!r}; choose from {allowed}")
        audio = path.parent / sound if sound else None
        if audio is not None and not audio.is_file():
            raise DataError(f"{path}, {clip.id}: no reply_audio at {audio}")
        found.append(Spoken(clip, str(reply), audio, plan))
    if not found:
        raise DataError(
            f"{path} has no exchange: a row needs audio, duration_s, text, emotion ({EMOTIONS[0]} ...) and reply"
        )
    return found


class Mixture:
    """Draws exchanges from several manifests by weight, each draw a function of seed and number."""

    def __init__(self, weights: Mapping[str, float], parts: Mapping[str, Sequence[Spoken]], seed: int) -> None:
        self.names = [name for name in weights if parts.get(name)]
        if not self.names:
            raise DataError(f"nothing to train on in {', '.join(weights)}")
        self.weights = [weights[name] for name in self.names]
        self.parts, self.seed = parts, seed

    def draw(self, number: int, seconds: float, most: int) -> list[Spoken]:
        """Exchanges whose queries last about `seconds` together; at least one, at most `most`."""
        chance = random.Random(self.seed * 50_021 + number)
        found: list[Spoken] = []
        while not found or (sum(x.query.duration_s for x in found) < seconds and len(found) < most):
            (name,) = chance.choices(self.names, self.weights)
            found.append(chance.choice(self.parts[name]))
        return found
