"""Words to phones: the ARPABET inventory, CMUdict, and learned letter-to-sound rules for words it lacks.

The listener's CTC units are the phones without stress and a word boundary; the voice's units keep the stress.
Source of the pronunciations: the CMU Pronouncing Dictionary (BSD-2-Clause, `assets/CMUDICT-LICENSE`).
"""

from __future__ import annotations

import gzip
import json
import re
from functools import lru_cache
from importlib import resources

VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
CONSONANTS = (
    "B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N",
    "NG", "P", "R", "S", "SH", "T", "TH", "V", "W", "Y", "Z", "ZH",
)  # fmt: skip
BLANK, BOUNDARY = "<blank>", "|"
#: CTC units of the listener; index 0 is the blank, 1 the boundary between two words.
UNITS: tuple[str, ...] = (BLANK, BOUNDARY, *VOWELS, *CONSONANTS)
UNIT_ID = {unit: index for index, unit in enumerate(UNITS)}
#: Units of the voice: padding, pauses by the mark that asks for them, stressed vowels, consonants.
PAUSES: tuple[str, ...] = ("<pad>", "sil", ",", ".", "?", "!")
VOICE_UNITS: tuple[str, ...] = (*PAUSES, *(v + s for v in VOWELS for s in "012"), *CONSONANTS)
VOICE_ID = {unit: index for index, unit in enumerate(VOICE_UNITS)}

_WORD = re.compile(r"[a-z']+")


def normalise(text: str) -> str:
    """Lower-case words and apostrophes only, one space apart: how transcripts are written and scored."""
    text = text.lower().replace("\u2019", "'").replace("-", " ")
    words = (word.strip("'") if word not in ("'cause", "'em") else word for word in _WORD.findall(text))
    return " ".join(word for word in words if word)


@lru_cache(maxsize=1)
def dictionary() -> dict[str, tuple[tuple[str, ...], ...]]:
    """Word -> its pronunciations (phones with stress), the usual one first."""
    entries: dict[str, list[tuple[str, ...]]] = {}
    path = resources.files("omni") / "assets" / "cmudict.txt.gz"
    with path.open("rb") as raw, gzip.open(raw, "rt", encoding="utf-8") as lines:
        for line in lines:
            head, *phones = line.split()
            entries.setdefault(re.sub(r"\(\d+\)$", "", head), []).append(tuple(phones))
    return {word: tuple(found) for word, found in entries.items()}


@lru_cache(maxsize=1)
def _rules() -> dict[str, str]:
    path = resources.files("omni") / "assets" / "letter_to_sound.json.gz"
    with path.open("rb") as raw, gzip.open(raw, "rt", encoding="utf-8") as text:
        return json.load(text)


#: Letters to the left and right that a rule looks at, most specific first (see `data/letter_to_sound.py`).
CONTEXTS: tuple[tuple[int, int], ...] = ((3, 3), (2, 3), (2, 2), (1, 2), (1, 1), (0, 1), (0, 0))


def letters_to_sounds(word: str) -> tuple[str, ...]:
    """Phones for a word that no dictionary has: each letter by the longest context seen while the rules were learned."""
    rules, padded, phones = _rules(), f"###{word.replace(chr(39), '')}###", []
    for index in range(3, len(padded) - 3):
        for left, right in CONTEXTS:
            rule = rules.get(f"{padded[index - left : index]}_{padded[index : index + 1 + right]}")
            if rule is not None:
                phones.extend(rule.split())
                break
    return tuple(phones) or ("AH0",)


def _from_parts(word: str) -> tuple[str, ...] | None:
    """A possessive, plural or compound of known words, or None."""
    known = dictionary()
    for suffix in ("'s", "s"):
        stem = word.removesuffix(suffix)
        if stem != word and stem in known:
            last = known[stem][0][-1]
            if last in {"S", "Z", "SH", "ZH", "CH", "JH"}:
                return (*known[stem][0], "IH0", "Z")
            return (*known[stem][0], "S" if last in {"P", "T", "K", "F", "TH"} else "Z")
    for cut in range(len(word) - 3, 2, -1):
        if word[:cut] in known and word[cut:] in known:
            return known[word[:cut]][0] + known[word[cut:]][0]
    return None


@lru_cache(maxsize=65536)
def pronounce(word: str) -> tuple[tuple[str, ...], ...]:
    """Pronunciations of one lower-case word, the usual first; never empty."""
    found = dictionary().get(word)
    return found or (_from_parts(word) or letters_to_sounds(word),)


def unstressed(phones: tuple[str, ...]) -> tuple[str, ...]:
    """The same phones without stress digits."""
    return tuple(phone.rstrip("012") for phone in phones)


def listener_targets(text: str) -> list[int]:
    """CTC target of a transcript: unit ids of its phones with a boundary between words."""
    ids: list[int] = []
    for word in normalise(text).split():
        if ids:
            ids.append(UNIT_ID[BOUNDARY])
        ids.extend(UNIT_ID[phone] for phone in unstressed(pronounce(word)[0]))
    return ids
