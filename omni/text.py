"""Tokens, the thought grammar, and the chat template: one definition for training targets, prompts and display.

The grammar of a turn (labels are single tokens):

    <|user|> [sound slots] <|listen|> transcript <|perceive|> emotion intensity match
    <|express|> need strategy intent style <|say|> reply <|end|>

The language model works in lower case, so that a word heard and the same word said are the same token; `spell` writes
the reply as a person would.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from omni.errors import ModelError
from omni.phones import dictionary, normalise
from omni.turns import EMOTIONS, INTENSITIES, INTENTS, MATCHES, NEEDS, STRATEGIES, STYLES, Plan

PAD, UNKNOWN, USER, SOUND = "<|pad|>", "<|unknown|>", "<|user|>", "<|sound|>"
LISTEN, PERCEIVE, EXPRESS, SAY, END = "<|listen|>", "<|perceive|>", "<|express|>", "<|say|>", "<|end|>"

#: The label fields of a thought in the order in which they are written: field -> allowed labels.
FIELDS: dict[str, tuple[str, ...]] = {
    "emotion": EMOTIONS,
    "intensity": INTENSITIES,
    "match": MATCHES,
    "need": NEEDS,
    "strategy": STRATEGIES,
    "intent": INTENTS,
    "style": STYLES,
}


def label(field: str, value: str) -> str:
    """The token of a label, for example `<emotion:sad>`. ValueError names the allowed values."""
    if value not in FIELDS[field]:
        raise ValueError(f"{field} {value!r} does not exist; allowed: {', '.join(FIELDS[field])}")
    return f"<{field}:{value}>"


SPECIALS: tuple[str, ...] = (
    PAD, UNKNOWN, USER, SOUND, LISTEN, PERCEIVE, EXPRESS, SAY, END,
    *(label(field, value) for field, values in FIELDS.items() for value in values),
)  # fmt: skip


@dataclass(frozen=True)
class Thought:
    """The written thought of one turn."""

    heard: str
    emotion: str
    intensity: str
    match: str
    plan: Plan

    def sentence(self) -> str:
        """The thought in plain words, for the person who wants to see it."""
        voice = {"agrees": "which fits the words", "adds": "a feeling that the words leave out"}
        relation = voice.get(self.match, "which says something other than the words")
        manner = {"mild": "slightly ", "moderate": "", "strong": "very "}[self.intensity]
        need = {
            "none": "No empathy is asked for",
            "seeking": "They want to be heard",
            "providing": "They are being kind",
        }
        return (
            f'Heard "{self.heard}". The voice sounds {manner}{self.emotion}, {relation}. {need[self.plan.need]}; '
            f"answer by {self.plan.strategy} ({self.plan.intent}), in a {self.plan.style} voice."
        )


def spoken_form(text: str) -> str:
    """Reply text as the model reads it: lower case, plain quotes, single spaces, only `. , ? ! '` and letters."""
    text = text.lower().replace("\u2019", "'").replace("-", " ")
    text = re.sub(r"[;:\u2013\u2014]", ",", text)
    text = re.sub(r"\.{2,}", ".", text)
    return re.sub(r"\s+", " ", re.sub(r"[^a-z',.?! ]", "", text)).strip()


def articles(text: str) -> str:
    """`a` before consonants and `an` before vowels, as the following word is pronounced; lower-case text."""

    def fitting(match: re.Match[str]) -> str:
        known = dictionary().get(match.group(2))
        first = known[0][0][0] if known else match.group(2)[0].upper()
        return ("an " if first in "AEIOU" else "a ") + match.group(2)

    return re.sub(r"\b(an?) ([a-z][a-z']*)", fitting, text)


class Vocabulary:
    """Byte-pair pieces of lower-case words plus the special tokens. Wraps `tokenizers` and a list of proper names."""

    def __init__(self, tokenizer: Tokenizer, names: dict[str, str] | None = None) -> None:
        self.tokenizer, self.names = tokenizer, names or {}
        self.ids: dict[str, int] = tokenizer.get_vocab()
        missing = [s for s in SPECIALS if s not in self.ids]
        if missing:
            raise ModelError(f"tokenizer lacks {missing[0]}; it belongs to another version, train it again")
        self.stops = {self.ids[mark] for mark in ".?!" if mark in self.ids}
        self.field_ids = {f: [self.ids[label(f, v)] for v in values] for f, values in FIELDS.items()}

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    @property
    def pieces(self) -> list[str]:
        """The text of every token by its id; U+2581 begins a word."""
        return [self.tokenizer.id_to_token(i) or "" for i in range(len(self))]

    @classmethod
    def train(cls, texts: Iterable[str], size: int, names: dict[str, str] | None = None) -> Vocabulary:
        """Learn pieces from lower-case texts (Sennrich et al. 2016, BPE)."""
        tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
            [pre_tokenizers.Metaspace(), pre_tokenizers.Split(Regex(r"[.,?!]"), "isolated")]
        )
        tokenizer.decoder = decoders.Metaspace()  # type: ignore[assignment]
        trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=list(SPECIALS), show_progress=False)
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer, names)

    def encode(self, text: str) -> list[int]:
        """Ids of plain text (no specials are parsed from it)."""
        return self.tokenizer.encode(text).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of plain ids; specials are left out."""
        text = self.tokenizer.decode([i for i in ids if i >= len(SPECIALS)])
        return re.sub(r"\s+([.,?!])", r"\1", text).strip()

    def spell(self, text: str) -> str:
        """Lower-case reply text with capitals where a person would write them."""

        def word(match: re.Match[str]) -> str:
            found = match.group()
            if found == "i" or found.startswith("i'"):
                return "I" + found[1:]
            stem, _, rest = found.partition("'")
            return self.names.get(found) or (self.names[stem] + "'" + rest if stem in self.names and rest else found)

        text = re.sub(r"[a-z']+", word, articles(text))
        return re.sub(r"(^|[.?!]\s+)([a-z])", lambda m: m.group(1) + m.group(2).upper(), text)

    def word_starts(self, ids: Sequence[int]) -> list[int]:
        """Places of the tokens that begin a word (not a mark), in order."""
        pieces = [self.tokenizer.id_to_token(i) or "" for i in ids]
        return [n for n, piece in enumerate(pieces) if piece.startswith("\u2581") and piece.strip("\u2581.,?!'")]

    # -- the grammar ---------------------------------------------------------------------------------------------

    def prompt(self, heard: str, sound_slots: int = 0) -> list[int]:
        """Ids up to and including the transcript."""
        ids = [self.ids[USER], *[self.ids[SOUND]] * sound_slots, self.ids[LISTEN]]
        return ids + self.encode(normalise(heard))

    def example(self, query: Sequence[int], reply: Sequence[int], likeness: str) -> list[int]:
        """A written exchange shown before the query, and how like it is (one of INTENSITIES); no sound, no thought."""
        like = self.ids[label("intensity", likeness)]
        return [self.ids[USER], like, self.ids[LISTEN], *query, self.ids[SAY], *reply, self.ids[END]]

    def perceived(self, emotion: str, intensity: str, match: str) -> list[int]:
        values = {"emotion": emotion, "intensity": intensity, "match": match}
        return [self.ids[PERCEIVE], *(self.ids[label(f, v)] for f, v in values.items())]

    def expressed(self, plan: Plan) -> list[int]:
        values = {"need": plan.need, "strategy": plan.strategy, "intent": plan.intent, "style": plan.style}
        return [self.ids[EXPRESS], *(self.ids[label(f, v)] for f, v in values.items())]

    def said(self, reply: str) -> list[int]:
        return [self.ids[SAY], *self.encode(spoken_form(reply)), self.ids[END]]

    def turn(self, thought: Thought, reply: str, sound_slots: int = 0) -> list[int]:
        """The ids of a whole turn."""
        return [
            *self.prompt(thought.heard, sound_slots),
            *self.perceived(thought.emotion, thought.intensity, thought.match),
            *self.expressed(thought.plan),
            *self.said(reply),
        ]

    def parse(self, ids: Sequence[int]) -> tuple[Thought, str]:
        """Read a whole turn back. ModelError if it is not well-formed."""
        marks = [self.ids[m] for m in (LISTEN, PERCEIVE, EXPRESS, SAY)]
        places = [ids.index(m) if m in ids else -1 for m in marks]
        if -1 in places or places != sorted(places):
            raise ModelError("the thought is not well-formed: a mark is missing or out of order")
        names = {i: t for t, i in self.ids.items()}
        labels = [names[i] for i in ids[places[1] + 1 : places[3]] if i != marks[2]]
        values = dict(item.strip("<>").split(":", 1) for item in labels if ":" in item)
        if list(values) != list(FIELDS):
            raise ModelError(f"the thought is not well-formed: fields {', '.join(values)}")
        plan = Plan(values["need"], values["strategy"], values["intent"], values["style"])
        heard = self.decode(ids[places[0] + 1 : places[1]])
        reply = self.decode([i for i in ids[places[3] + 1 :] if i != self.ids[END]])
        return Thought(heard, values["emotion"], values["intensity"], values["match"], plan), reply

    # -- files ---------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and `names.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "names.json").write_text(json.dumps(self.names, sort_keys=True), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Vocabulary:
        """Read what `save` wrote. ModelError if a file is missing or unreadable."""
        try:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            names = json.loads((folder / "names.json").read_text(encoding="utf-8"))
        except Exception as error:  # the tokenizers library raises bare Exception
            raise ModelError(f"no readable tokenizer in {folder}: {error}") from error
        return cls(tokenizer, names)
