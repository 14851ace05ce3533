"""The project's own corpus (CC0): written exchanges, sets of the same words in different tones, and dialogues."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from omni.data.manifest import lines
from omni.errors import DataError
from omni.text import FIELDS, Thought
from omni.turns import Plan

FOLDER = Path("recipes/mini/corpus")
MATCH_OF = {"neutral": "agrees", "calm": "agrees"}


@dataclass(frozen=True)
class Exchange:
    """One written exchange. Rows of a dialogue share `situation` and follow each other."""

    situation: str
    feeling: str
    emotion: str
    intensity: str
    need: str
    strategy: str
    intent: str
    style: str
    say: str
    reply: str
    match: str = "agrees"

    @property
    def plan(self) -> Plan:
        return Plan(self.need, self.strategy, self.intent, self.style)

    def thought(self, heard: str | None = None) -> Thought:
        return Thought(heard or self.say, self.emotion, self.intensity, self.match, self.plan)


def held_out(situation: str) -> bool:
    """Whether a situation (a set, a dialogue) is in the held-out tenth: a function of its name alone."""
    return int(hashlib.sha256(situation.encode()).hexdigest(), 16) % 10 == 0


def read(folder: Path) -> list[Exchange]:
    """Every exchange of `*.jsonl` in `folder`. DataError names file, line and the bad field."""
    paths = sorted(folder.glob("*.jsonl"))
    if not paths:
        raise DataError(f"no corpus in {folder}; it ships in recipes/mini/corpus of the repository")
    found: list[Exchange] = []
    for path in paths:
        for number, row in enumerate(lines(path), 1):
            try:
                exchange = Exchange(**row)
            except TypeError as error:
                raise DataError(f"{path}:{number}: {error}") from error
            for field, allowed in FIELDS.items():
                if getattr(exchange, field) not in allowed:
                    raise DataError(f"{path}:{number}: {field} {getattr(exchange, field)!r}; allowed: {allowed}")
            found.append(exchange)
    return found


def split(exchanges: list[Exchange]) -> tuple[list[Exchange], list[Exchange]]:
    """(training, held-out tenth), by situation."""
    return [e for e in exchanges if not held_out(e.situation)], [e for e in exchanges if held_out(e.situation)]


def dialogues(exchanges: list[Exchange]) -> list[list[Exchange]]:
    """Consecutive rows of a `talk-` situation are one dialogue; every other row stands alone."""
    groups: list[list[Exchange]] = []
    for exchange in exchanges:
        last = groups[-1][-1] if groups else None
        if last is not None and exchange.situation.startswith("talk-") and last.situation == exchange.situation:
            groups[-1].append(exchange)
        else:
            groups.append([exchange])
    return groups


def _inside_sentences(exchanges: list[Exchange]) -> set[str]:
    """Every word that stands inside a sentence, as it is written there."""
    texts = (text for exchange in exchanges for text in (exchange.say, exchange.reply))
    return {w for text in texts for w in re.findall(r"(?<![.?!] )(?<!^)\b[A-Za-z']+", text)}


def proper_names(exchanges: list[Exchange], others: dict[str, str] | None = None) -> dict[str, str]:
    """Lower-case word -> its capitalised spelling: `others`, and words that are never lower case inside a sentence.

    What the exchanges write in lower case is no name, whatever other texts say of it (rice, Rice).
    """
    written = _inside_sentences(exchanges)
    lower = {w for w in written if w[0].islower()}
    upper = {w.lower(): w for w in written if w[0].isupper() and w != "I" and not w.startswith("I'")}
    return {k: v for k, v in {**(others or {}), **upper}.items() if k not in lower}
