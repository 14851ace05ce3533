"""Text to the voice's units: numbers and signs to words, words to stressed phones, marks to pauses.

Shapes: L units.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from omni.phones import VOICE_ID, pronounce

_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve "
    "thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
)
_ONES = tuple(_NUMBERS.split())
_TENS = ["zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
    "twelve": "twelfth",
}  # fmt: skip
_SHORT = {
    "mr.": "mister", "mrs.": "missus", "ms.": "miz", "dr.": "doctor", "st.": "saint", "vs.": "versus",
    "etc.": "et cetera", "e.g.": "for example", "i.e.": "that is", "a.m.": "a m", "p.m.": "p m",
}  # fmt: skip
_SIGNS = {
    "&": " and ",
    "%": " percent ",
    "+": " plus ",
    "=": " equals ",
    "@": " at ",
    "#": " number ",
    "°": " degrees ",
}
_WEAK = (
    "a an the and or but nor so if as than that which who whom whose of in on at by for from to with into onto "
    "upon over under about through i me my you your he him his she her it its we us our they them their is am "
    "are was were be been being do does did have has had will would shall should can could may might must "
    "there this these those i'm i'll i've i'd you're you'll you've it's he's she's we're we'll we've they're "
    "that's isn't don't can't"
)
#: Words that usually carry no accent.
FUNCTION_WORDS = frozenset(_WEAK.split())
FEATURES = 6
_TOKEN = re.compile(r"[A-Za-z]+(?:['’][A-Za-z]+)*['’]?|[,.;:?!…—–()\"]|-{2,}")
_MARKS = {
    ",": ",",
    ";": ",",
    ":": ",",
    "—": ",",
    "–": ",",
    "--": ",",
    "(": ",",
    ")": ",",
    ".": ".",
    "…": ".",
    "?": "?",
    "!": "!",
}
_PAUSE_NAMES = (",", ".", "?", "!")


@dataclass(frozen=True)
class Spoken:
    """What the voice reads. `units` int64 [L]; `words` int64 [L] index into `text` of each unit, -1 in pauses."""

    units: np.ndarray
    words: np.ndarray
    text: list[str]

    @property
    def features(self) -> np.ndarray:
        """float32 [L, FEATURES], see `position_features`."""
        return position_features(self.units, self.words, self.text)


def number_words(number: int) -> str:
    """A whole number below a million million in words; longer ones digit by digit."""
    if number < 20:
        return _ONES[number]
    if number < 100:
        return _TENS[number // 10] + (f" {_ONES[number % 10]}" if number % 10 else "")
    for size, name in ((10**9, "billion"), (10**6, "million"), (10**3, "thousand"), (100, "hundred")):
        if size <= number < size * 1000:
            rest = number % size
            joint = " and " if size == 100 else " "
            return f"{number_words(number // size)} {name}" + (joint + number_words(rest) if rest else "")
    return " ".join(_ONES[int(digit)] for digit in str(number))


def _ordinal(number: int) -> str:
    *front, last = number_words(number).split()
    ending = _ORDINALS.get(last) or (last[:-1] + "ieth" if last.endswith("y") else last + "th")
    return " ".join([*front, ending])


def _year_or_number(match: re.Match[str]) -> str:
    digits = match[0].replace(",", "")
    number = int(digits)
    if "," not in match[0] and len(digits) == 4 and (1100 <= number < 2000 or 2010 <= number < 2100):
        low = number % 100
        tail = "hundred" if low == 0 else (f"oh {_ONES[low]}" if low < 10 else number_words(low))
        return f"{number_words(number // 100)} {tail}"
    if len(digits) > 1 and digits[0] == "0":
        return " ".join("oh" if d == "0" else _ONES[int(d)] for d in digits)
    return number_words(number)


def spell_out(text: str) -> str:
    """The same text with numbers, amounts, times, short forms and signs written as words."""
    for short, full in _SHORT.items():
        text = re.sub(rf"(?<!\w){re.escape(short)}(?=\s|$|,)", full, text, flags=re.IGNORECASE)
    text = re.sub(r"([$£€])(\d[\d,]*)(?:\.(\d\d))?", _amount, text)
    text = re.sub(r"\b(\d{1,2}):(\d\d)\b", _clock, text)
    text = re.sub(r"\b(\d+)(?:st|nd|rd|th)\b", lambda m: _ordinal(int(m[1])), text)
    text = re.sub(r"(?<=\d)\.(\d+)", lambda m: " point " + " ".join(_ONES[int(d)] for d in m[1]), text)
    text = re.sub(r"(?<![\w])-(?=\d)", "minus ", text)
    text = re.sub(r"\d{1,3}(?:,\d{3})+|\d+", lambda m: f" {_year_or_number(m)} ", text)
    for sign, word in _SIGNS.items():
        text = text.replace(sign, word)
    return re.sub(r"\s+", " ", re.sub(r"(?<=\w)-(?=\w)", " ", text)).strip()


def _amount(match: re.Match[str]) -> str:
    name = {"$": "dollar", "£": "pound", "€": "euro"}[match[1]]
    whole = int(match[2].replace(",", ""))
    said = f"{number_words(whole)} {name}{'' if whole == 1 else 's'}"
    return said + (f" and {number_words(int(match[3]))} cents" if match[3] and int(match[3]) else "")


def _clock(match: re.Match[str]) -> str:
    hours, minutes = int(match[1]), int(match[2])
    if minutes == 0:
        return number_words(hours)
    return f"{number_words(hours)} {'oh ' if minutes < 10 else ''}{number_words(minutes)}"


def _phones(word: str, following: str) -> tuple[str, ...]:
    if word == "the":
        return ("DH", "IY0") if following[:1] in "aeiou" and following else ("DH", "AH0")
    return pronounce(word)[0]


def _is_letters(token: str) -> bool:
    return token.isupper() and 1 < len(token) < 5 and (len(token) < 4 or not set(token) & set("AEIOUY"))


def units(text: str) -> Spoken:
    """Units of `text`: a short silence, phones, pauses by punctuation, closed by the mark of the last sentence."""
    tokens: list[str] = []
    shouted = sum(t.isupper() for t in text.split()) > 2
    for token in _TOKEN.findall(spell_out(text)):
        if token in _MARKS or token == '"':
            tokens.append(_MARKS.get(token, ""))
        elif _is_letters(token) and not shouted and token not in ("OK",):
            tokens.extend(letter.lower() + "." for letter in token)
        else:
            tokens.append("okay" if token == "OK" else token.lower().replace("’", "'").rstrip("'"))
    names, words = ["sil"], [-1]
    said: list[str] = []
    plain = [t for t in tokens if t]
    for index, token in enumerate(plain):
        if token in _PAUSE_NAMES:
            if names[-1] in _PAUSE_NAMES:
                names[-1] = token if token != "," else names[-1]
            elif len(names) > 1:
                names.append(token)
                words.append(-1)
            continue
        following = plain[index + 1] if index + 1 < len(plain) else ""
        phones = _LETTERS.get(token) or _phones(token.rstrip("."), following)
        names.extend(phones)
        words.extend([len(said)] * len(phones))
        said.append(token.rstrip("."))
    if names[-1] not in (".", "?", "!"):
        names = [*names[:-1], "."] if names[-1] == "," else [*names, "."]
        words = words if len(words) == len(names) else [*words, -1]
    return Spoken(np.array([VOICE_ID[n] for n in names], np.int64), np.array(words, np.int64), said)


_LETTERS = {
    f"{letter}.": tuple(sounds.split())
    for letter, sounds in zip(
        "abcdefghijklmnopqrstuvwxyz",
        [
            "EY1",
            "B IY1",
            "S IY1",
            "D IY1",
            "IY1",
            "EH1 F",
            "JH IY1",
            "EY1 CH",
            "AY1",
            "JH EY1",
            "K EY1",
            "EH1 L",
            "EH1 M",
            "EH1 N",
            "OW1",
            "P IY1",
            "K Y UW1",
            "AA1 R",
            "EH1 S",
            "T IY1",
            "Y UW1",
            "V IY1",
            "D AH1 B AH0 L Y UW0",
            "EH1 K S",
            "W AY1",
            "Z IY1",
        ],
    )
}


def position_features(unit_ids: np.ndarray, words: np.ndarray, text: list[str]) -> np.ndarray:
    """Where each unit stands: float32 [L, FEATURES].

    First of its word, last of its word, in a function word, fraction of its phrase gone, units since the pause before
    and to the pause after (over 20).
    """
    count = len(unit_ids)
    found = np.zeros((count, FEATURES), np.float32)
    stops = np.flatnonzero(words < 0)
    for low, high in zip([-1, *stops], [*stops, count]):
        size = high - low - 1
        steps = np.arange(size)
        found[low + 1 : high, 3] = (steps + 0.5) / max(size, 1)
        found[low + 1 : high, 4] = (steps + 1) / 20.0
        found[low + 1 : high, 5] = (size - steps) / 20.0
    before, after = np.concatenate(([-2], words[:-1])), np.concatenate((words[1:], [-2]))
    inside = words >= 0
    found[:, 0] = inside & (words != before)
    found[:, 1] = inside & (words != after)
    found[:, 2] = [w >= 0 and text[w] in FUNCTION_WORDS for w in words]
    return found


def sentences(text: str) -> list[str]:
    """Sentences of a reply, each with its closing mark."""
    return [part.strip() for part in re.findall(r"[^.!?…]+[.!?…]*[\"')\]]*", spell_out(text)) if part.strip()]
