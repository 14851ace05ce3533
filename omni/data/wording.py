"""Running words of the text corpora, as the listener would hear them: what the word model is trained on."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from omni.data.corpora import exchanges
from omni.data.manifest import lines, read
from omni.nn.ngram import SPECIAL
from omni.phones import dictionary, normalise
from omni.spoken import number_words

#: Spellings that stand for other spoken words.
_SPOKEN = {
    "mr": "mister", "mrs": "missus", "dr": "doctor", "ok": "okay", "im": "i'm", "ive": "i've", "dont": "don't",
    "didnt": "didn't", "doesnt": "doesn't", "isnt": "isn't", "wasnt": "wasn't", "havent": "haven't", "cant": "can't",
    "wont": "won't", "wouldnt": "wouldn't", "couldnt": "couldn't", "shouldnt": "shouldn't", "arent": "aren't",
    "hasnt": "hasn't", "thats": "that's", "theres": "there's", "whats": "what's", "hes": "he's", "shes": "she's",
    "youre": "you're", "theyre": "they're", "weve": "we've", "youve": "you've", "theyve": "they've", "alot": "a lot",
    "definately": "definitely", "favourite": "favorite",
}  # fmt: skip
#: Where what follows can no longer be read aloud for certain: links, tags, codes.
_BREAK = re.compile(r"https?:\S*|\S*[\[\]<>@#/_{}|\\]\S*|\S*\d\S*")


def _number(match: re.Match[str]) -> str:
    value = int(match.group())
    if 1100 <= value < 2000 and value % 100 >= 10:  # a year
        return f"{number_words(value // 100)} {number_words(value % 100)}"
    return number_words(value)


def sentences(text: str) -> list[list[str]]:
    """Words of each sentence as spoken; numbers to four digits in words; cut where a reading is uncertain."""
    text = re.sub(r"(?<![\w.,$£:])\d{1,4}(?![\w:%]|[.,]\d)", _number, text)
    found = []
    for piece in re.split(r"[.!?;\n]+(?:\s|$)|\.\.+", _BREAK.sub("\n", text)):
        words = " ".join(_SPOKEN.get(word, word) for word in normalise(piece).split()).split()
        if words:
            found.append(words)
    return found


def transcripts(manifest: Path, held_out: set[str]) -> tuple[list[list[str]], list[list[str]]]:
    """(training, held-out) utterances of a speech manifest."""
    split: tuple[list[list[str]], list[list[str]]] = ([], [])
    for clip in read(manifest):
        if clip.text:
            split[clip.speaker in held_out].append(normalise(clip.text).split())
    return split


def turns(paths: Iterable[Path]) -> list[list[str]]:
    """Sentences of dialogue or comment corpora: rows with `turns`, of text or of {"text": ...}, or with `text`."""
    found: list[list[str]] = []
    for path in paths:
        for row in lines(path):
            for turn in row.get("turns", [row.get("text", "")]):
                found.extend(sentences(turn["text"] if isinstance(turn, dict) else turn))
    return found


def queries(folder: Path) -> tuple[list[list[str]], list[list[str]]]:
    """(training, held-out) sentences that people say in the project's own exchanges."""
    training, held = exchanges.split(exchanges.read(folder))
    return [s for e in training for s in sentences(e.say)], [s for e in held for s in sentences(e.say)]


def prose(folder: Path) -> list[list[str]]:
    """Sentences of the project's own prose in the manner of old books, `*.txt` in `folder`; none if there is none."""
    return [s for path in sorted(folder.glob("*.txt")) for s in sentences(" ".join(path.read_text("utf-8").split()))]


def vocabulary(
    corpora: Iterable[list[list[str]]], sure: list[list[str]], least: int = 5, most: int = 60_000
) -> list[str]:
    """SPECIAL, then words by frequency: those of `sure`, those with a known pronunciation, others seen `least` times."""
    counts = Counter(word for corpus in corpora for sentence in corpus for word in sentence)
    trusted, known = {word for sentence in sure for word in sentence}, dictionary()
    kept = [w for w, count in counts.most_common() if (w in known or w in trusted or count >= least) and len(w) < 24]
    return [*SPECIAL, *kept[:most]]
