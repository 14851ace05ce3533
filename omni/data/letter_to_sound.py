"""Learn letter-to-sound rules from the pronouncing dictionary (how `assets/letter_to_sound.json.gz` was made).

Each letter is aligned with zero to two phones by Viterbi re-estimation (the epsilon-scattering method of Black, Lenzo
and Pagel, 1998), then the commonest phones are stored for each letter in contexts of falling size (`phones.CONTEXTS`).
Run `python -m omni.data.letter_to_sound` to write the file again.
"""

from __future__ import annotations

import gzip
import json
import math
from collections import Counter, defaultdict
from pathlib import Path

from omni.phones import CONTEXTS, dictionary

Pairs = list[tuple[str, tuple[str, ...]]]


def align(word: str, phones: tuple[str, ...], score: dict[tuple[str, str], float]) -> list[str] | None:
    """Best split of the phones over the letters (0-2 phones each, joined by spaces), or None if impossible."""
    best: list[dict[int, tuple[float, int]]] = [{0: (0.0, 0)}]
    for letter in word:
        row: dict[int, tuple[float, int]] = {}
        for used, (total, _) in best[-1].items():
            for take in (0, 1, 2):
                end = used + take
                if end > len(phones):
                    break
                gain = total + score.get((letter, " ".join(phones[used:end])), -12.0 - 2 * (take == 2))
                if end not in row or gain > row[end][0]:
                    row[end] = (gain, used)
        best.append(row)
    if len(phones) not in best[-1]:
        return None
    end, pieces = len(phones), []
    for row in reversed(best[1:]):
        used = row[end][1]
        pieces.append(" ".join(phones[used:end]))
        end = used
    return pieces[::-1]


def learn(pairs: Pairs, rounds: int = 4, minimum: int = 3) -> dict[str, str]:
    """Rules `left_letter+right -> phones`; a longer context is kept only where it changes the shorter one's answer."""
    score: dict[tuple[str, str], float] = {}
    for word, phones in pairs:  # first guess: every letter may stand for every phone near its place
        for i, letter in enumerate(word):
            j = round(i * len(phones) / len(word))
            for phone in phones[max(0, j - 1) : j + 2]:
                score[letter, phone] = score.get((letter, phone), 0.0) + 1.0
    letters = Counter("".join(word for word, _ in pairs))
    score = {key: math.log(value / (3 * letters[key[0]])) for key, value in score.items()}
    for letter in letters:
        score.setdefault((letter, ""), math.log(0.1))
    for _ in range(rounds):
        counts: Counter[tuple[str, str]] = Counter()
        for word, phones in pairs:
            counts.update(zip(word, align(word, phones, score) or [], strict=False))
        score = {key: math.log(value / letters[key[0]]) for key, value in counts.items()}
    tables: dict[tuple[int, int], dict[str, Counter[str]]] = {size: defaultdict(Counter) for size in CONTEXTS}
    for word, phones in pairs:
        pieces = align(word, phones, score)
        if pieces is None:
            continue
        padded = f"###{word}###"
        for index, piece in enumerate(pieces, start=3):
            for left, right in CONTEXTS:
                tables[left, right][f"{padded[index - left : index]}_{padded[index : index + 1 + right]}"][piece] += 1
    return _prune(tables, minimum)


def _prune(tables: dict[tuple[int, int], dict[str, Counter[str]]], minimum: int) -> dict[str, str]:
    rules: dict[str, str] = {}
    for left, right in reversed(CONTEXTS):
        for key, counter in tables[left, right].items():
            piece, count = counter.most_common(1)[0]
            if count < minimum and (left, right) != (0, 0):
                continue
            before, after = key.split("_")
            for shorter_left, shorter_right in CONTEXTS[CONTEXTS.index((left, right)) + 1 :]:
                shorter = f"{before[len(before) - shorter_left :]}_{after[: 1 + shorter_right]}"
                if shorter in rules:
                    break
            else:
                shorter = ""
            if rules.get(shorter) != piece:
                rules[key] = piece
    return rules


def main() -> None:
    """Learn from the whole dictionary and write the packaged rules."""
    pairs = [(w, p[0]) for w, p in dictionary().items() if w.isascii() and w.isalpha() and len(w) > 1]
    target = Path(__file__).parents[1] / "assets" / "letter_to_sound.json.gz"
    with gzip.GzipFile(target, "wb", mtime=0) as file:
        file.write(json.dumps(learn(pairs), separators=(",", ":"), sort_keys=True).encode())


if __name__ == "__main__":
    main()
