"""Stages of the language model: `language_model` (dialogue text) and `express` (thought, then reply)."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from omni.config import LlmConfig, build, dump
from omni.data.batching import Schedule
from omni.data.corpora import exchanges as corpus
from omni.data.manifest import lines
from omni.errors import DataError
from omni.models.exemplars import Exemplars
from omni.models.speech_llm import SpeechLLM
from omni.nn.sampling import Blocker
from omni.phones import dictionary, normalise, unstressed
from omni.spoken import FUNCTION_WORDS
from omni.text import END, LISTEN, SAY, SOUND, USER, Vocabulary, spoken_form
from omni.train.losses import scored_nats
from omni.train.recipe import Recipe
from omni.turns import EMOTIONS

IGNORED = -100


@dataclass(frozen=True)
class SpeakingData:
    """The `data` block of the language-model recipes. `dialogues` are relative to --data, `corpus` to the repository."""

    dialogues: list[str] = field(default_factory=list)
    corpus: str = str(corpus.FOLDER)
    start_from: str | None = None  # run whose export to start from, e.g. `language_model`
    rows: int = 16
    row_tokens: int = 256
    batch_tokens: int = 3_000
    replay_rows: int = 4
    copy_rows: int = 2  # rows whose second half repeats the first: they teach to take words up from the context
    misheard: float = 0.3
    unheard: float = 0.1
    unaided: float = 0.1  # exchanges that are learned without exemplars
    edited: float = (
        0.35  # exchanges that are shown themselves with some words exchanged: they teach to follow an exemplar
    )
    largest_dialogues: int = 1_000_000


def read_dialogues(path: Path) -> list[list[str]]:
    """Turns of a dialogue corpus in JSONL, plain text."""
    return [[t["text"] if isinstance(t, dict) else t for t in row["turns"]] for row in lines(path)]


def capitalised(path_turns: list[list[str]], minimum: int = 20) -> dict[str, str]:
    """Words written with a capital inside sentences at least nine times in ten: lower case -> spelling."""
    upper: dict[str, int] = {}
    total: dict[str, int] = {}
    for turns in path_turns:
        for turn in turns:
            for word in re.findall(r"(?<=[a-z,] )[A-Za-z][a-z]+\b", turn):
                low = word.lower()
                total[low] = total.get(low, 0) + 1
                upper[low] = upper.get(low, 0) + word[0].isupper()
    return {w: w.capitalize() for w, n in total.items() if n >= minimum and upper[w] >= 0.9 * n}


def plain_turns(turns: list[str], vocabulary: Vocabulary, start: int) -> list[int]:
    """A dialogue without thoughts: even turns are heard, odd ones said. `start` 0 or 1 drops the first turn."""
    ids: list[int] = []
    for index, turn in enumerate(turns[start:]):
        if index % 2 == 0:
            ids += [vocabulary.ids[USER], vocabulary.ids[LISTEN], *vocabulary.encode(normalise(turn))]
        else:
            ids += [vocabulary.ids[SAY], *vocabulary.encode(spoken_form(turn)), vocabulary.ids[END]]
    return ids


class Misheard:
    """Imitates recognition errors: words dropped, or replaced by words with the same consonants."""

    def __init__(self, texts: list[str]) -> None:
        self.alike: dict[str, list[str]] = {}
        known = dictionary()
        for word in sorted({w for t in texts for w in normalise(t).split()}):
            if word in known:
                self.alike.setdefault(self._key(word), []).append(word)

    @staticmethod
    def _key(word: str) -> str:
        phones = unstressed(dictionary()[word][0])
        return " ".join(p for p in phones if p[0] not in "AEIOU") or phones[0]

    def __call__(self, text: str, draw: random.Random) -> str:
        words, out = normalise(text).split(), []
        for word in words:
            chance = draw.random()
            if chance < 0.06 and len(words) > 2:
                continue
            if chance < 0.22 and word in dictionary():
                word = draw.choice(self.alike.get(self._key(word)) or [word])
            out.append(word)
        return " ".join(out)


def make_vocabulary(recipe: Recipe, settings: SpeakingData, data: Path, size: int) -> Vocabulary:
    """Train the tokenizer on the recipe's dialogues and the corpus's training split."""
    talk = [d for name in settings.dialogues for d in read_dialogues(data / name)][: settings.largest_dialogues]
    train, _ = corpus.split(corpus.read(Path(settings.corpus)))
    own = [t for e in train for t in (e.say, e.reply)]
    texts = [spoken_form(t) for d in talk for t in d] + [spoken_form(t) for t in own] * 4
    return Vocabulary.train(texts, size, corpus.proper_names(train, capitalised(talk)))


class Swapped:
    """An exchange with one to three content words of the query exchanged for others, in the query and in the reply.

    Shown as an exemplar it teaches to keep the form of a written reply and to put the query's own words into it: the
    edit of a prototype (Guu et al. 2018, arXiv 1709.08878).
    """

    def __init__(self, texts: list[str]) -> None:
        self.others = [w for t in texts for w in normalise(t).split() if self._content(w)] or ["thing"]

    @staticmethod
    def _content(word: str) -> bool:
        return len(word) > 3 and word not in FUNCTION_WORDS

    def __call__(self, query: str, reply: str, draw: random.Random) -> tuple[str, str]:
        """The query, normalised, and the reply in its spoken form."""
        query, reply = normalise(query), spoken_form(reply)
        found = list(dict.fromkeys(w for w in query.split() if self._content(w)))
        for word in draw.sample(found, min(len(found), draw.randint(1, 3))):
            other = draw.choice(self.others)
            query, reply = (re.sub(rf"\b{re.escape(word)}\b", other, text) for text in (query, reply))
        return query, reply


class LanguageModelTask:
    """Next-token prediction on dialogue text: heard and said turns in the chat template, without thoughts."""

    def __init__(self, recipe: Recipe, data: Path, cache: Path) -> None:
        self.recipe, self.settings = recipe, build(SpeakingData, recipe.data, "data")
        self.config = build(LlmConfig, recipe.model, "model")
        vocabulary_folder = cache / f"vocabulary-{self.config.vocabulary}"
        if not (vocabulary_folder / "names.json").exists():
            make_vocabulary(recipe, self.settings, data, self.config.vocabulary).save(vocabulary_folder)
        self.vocabulary = Vocabulary.load(vocabulary_folder)
        torch.manual_seed(recipe.seed)
        self.model: nn.Module = SpeechLLM(self.config, self.vocabulary)
        if self.settings.start_from:
            self.model = load_language_model(cache.parent / self.settings.start_from / "export", self.config, grow=True)
            self.vocabulary = self.model.vocabulary
        train, held = self._streams(data)
        self.stream, self.held = torch.tensor(train), torch.tensor(held)

    def _streams(self, data: Path) -> tuple[list[int], list[int]]:
        train: list[int] = []
        held: list[int] = []
        draw = random.Random(0)
        talk = [d for name in self.settings.dialogues for d in read_dialogues(data / name)]
        talk = talk[: self.settings.largest_dialogues]
        draw.shuffle(talk)
        for number, turns in enumerate(talk):
            ids = plain_turns(turns, self.vocabulary, draw.randrange(2))
            (held if number % 100 == 0 else train).extend(ids)
        if len(held) < 64:
            raise DataError(f"only {len(train) + len(held)} tokens of dialogue; the language model needs more text")
        return train, held

    def _rows(self, stream: Tensor, rows: int, generator: torch.Generator) -> Tensor:
        width = min(self.settings.row_tokens, len(stream) - 1)
        starts = torch.randint(0, len(stream) - width, (rows,), generator=generator)
        return torch.stack([stream[s : s + width + 1] for s in starts.tolist()])

    def batch(self, step: int) -> Tensor:
        """Rows [rows + copy_rows, row_tokens + 1] of the stream; the second half of the last ones repeats the first."""
        return self._plain_rows(self.settings.rows, step)

    def _plain_rows(self, rows: int, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.recipe.seed * 7_777_777 + step)
        found = self._rows(self.stream, rows + self.settings.copy_rows, generator)
        half = found.shape[1] // 2
        found[rows:, half : 2 * half] = found[rows:, :half].clone()
        return found

    def _plain_nats(self, rows: Tensor) -> Tensor:
        before = rows[:, :-1]
        embeddings = self.model.embed(before)  # type: ignore[operator]
        return -self.model.token_log_likelihood(embeddings, before, rows[:, 1:]).mean()  # type: ignore[operator]

    def loss(self, batch: Tensor, step: int) -> tuple[Tensor, dict[str, float]]:
        loss = self._plain_nats(batch)
        return loss, {"perplexity": float(loss.detach().exp())}

    def validate(self) -> dict[str, float]:
        """Mean negative log-likelihood a token on held-out dialogues."""
        rows = self._rows(self.held, 12, torch.Generator().manual_seed(0))
        loss = float(self._plain_nats(rows))
        return {"nats_per_token": loss, "perplexity": float(torch.tensor(loss).exp())}

    def export(self, folder: Path) -> None:
        self.vocabulary.save(folder)
        weights = {k: v for k, v in self.model.state_dict().items() if not k.endswith("lm_head.weight")}
        save_file({k: v.half().contiguous() for k, v in weights.items()}, folder / "language_model.safetensors")
        (folder / "llm.yaml").write_text(dump(self.config), encoding="utf-8")


def load_language_model(
    folder: Path, config: LlmConfig, blocker: Blocker | None = None, grow: bool = False
) -> SpeechLLM:
    """A `SpeechLLM` from an export folder (half precision on disk, float32 in memory); `grow` may add a copy head."""
    model = SpeechLLM(config, Vocabulary.load(folder), blocker)
    weights = {k: v.float() for k, v in load_file(folder / "language_model.safetensors").items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    new = ("lm_head.weight", "copying.") if grow else ("lm_head.weight",)
    if unexpected or any(not any(name in m for name in new) for m in missing):
        raise DataError(f"{folder} does not hold this language model: missing {missing}, unexpected {unexpected}")
    model.model.tie_weights()
    return model


class ExpressTask(LanguageModelTask):
    """Stage 2: thought, then reply, on the project's corpus, with a share of plain dialogue so as not to forget it.

    The transcript is given (it comes from the listener), so it is not scored; labels and reply are. The emotion slot
    holds the posterior-weighted label embedding; here the posterior is drawn around the written emotion.
    """

    def __init__(self, recipe: Recipe, data: Path, cache: Path) -> None:
        super().__init__(recipe, data, cache)
        everything = corpus.read(Path(self.settings.corpus))
        train, held = corpus.split(everything)
        self.vocabulary.names = corpus.proper_names(train, self.vocabulary.names)
        self.train_dialogues, self.held_dialogues = corpus.dialogues(train), corpus.dialogues(held)
        self.misheard = Misheard([e.say for e in train])
        self.swapped = Swapped([e.say for e in train])
        sizes = [sum(self._size(e) for e in d) for d in self.train_dialogues]
        self.plan_of_batches = Schedule(sizes, self.settings.batch_tokens, recipe.seed)
        replies = [self.vocabulary.encode(spoken_form(e.reply)) for e in train]
        said = [normalise(spoken_form(e.reply)).split() for e in train]
        self.blocker = Blocker.learn(said, self.config.blocked_run_words)
        queries = [self.vocabulary.encode(normalise(e.say)) for e in train]
        self.exemplars = Exemplars(queries, replies, [EMOTIONS.index(e.emotion) for e in train])
        self.places: dict[str, list[int]] = {}
        for place, exchange in enumerate(train):
            self.places.setdefault(exchange.situation, []).append(place)

    def _size(self, exchange: corpus.Exchange) -> int:
        """About how many tokens an exchange takes, exemplars included."""
        return len(self.vocabulary.encode(exchange.say + " " + exchange.reply)) + 14 + 35 * self.config.exemplars

    def examples(
        self, exchange: corpus.Exchange, heard: str, posterior: list[float], draw: random.Random | None
    ) -> list[int]:
        """Ids of exemplars of other situations; in training some rank lower than the nearest, or there is none."""
        wanted = self.config.exemplars
        if not wanted or (draw is not None and draw.random() < self.settings.unaided):
            return []
        query = self.vocabulary.encode(heard)
        if draw is not None and draw.random() < self.settings.edited:
            said, reply = map(self.vocabulary.encode, self.swapped(exchange.say, exchange.reply, draw))
            return self.vocabulary.example(said, reply, self.exemplars.likeness(query, said))
        count = wanted if draw is None else 2 * wanted + 1
        without = self.places.get(exchange.situation, [])
        found = self.exemplars.nearest(query, posterior, count, without)
        if draw is not None:
            found = [found[rank] for rank in sorted(draw.sample(range(len(found)), min(wanted, len(found))))]
        return self.exemplars.shown(query, found, self.vocabulary)

    def sequence(
        self, dialogue: list[corpus.Exchange], draw: random.Random | None
    ) -> tuple[list[int], list[int], list[list[float]]]:
        """ids, targets (shifted) and a posterior per emotion slot for one dialogue; `draw` adds hearing errors."""
        ids: list[int] = []
        scored: list[bool] = []
        posteriors: list[list[float]] = []
        for exchange in dialogue:
            heard = normalise(exchange.say)
            if draw is not None:
                heard = self.misheard(heard, draw) if draw.random() < self.settings.misheard else heard
            share = 0.9 if draw is None else draw.uniform(0.4, 1.0)
            posterior = [(1 - share) / (len(EMOTIONS) - 1)] * len(EMOTIONS)
            posterior[EMOTIONS.index(exchange.emotion)] = share
            posteriors.append(posterior)
            shown = self.examples(exchange, heard, posterior, draw)
            if draw is not None and draw.random() < self.settings.unheard:
                heard = ""
            prompt = shown + self.vocabulary.prompt(heard, sound_slots=1)
            match = exchange.match if self.config.reads_match else "agrees"
            perceived = self.vocabulary.perceived(exchange.emotion, exchange.intensity, match)
            rest = self.vocabulary.expressed(exchange.plan) + self.vocabulary.said(exchange.reply)
            ids += prompt + perceived + rest
            scored += [False] * (len(prompt) + len(perceived) + 1) + [True] * (len(rest) - 1)
        ids, scored = ids[: self.config.context_tokens], scored[: self.config.context_tokens]
        targets = [i if s else IGNORED for i, s in zip(ids[1:], scored[1:])] + [IGNORED]
        return ids, targets, posteriors[: ids.count(self.vocabulary.ids[SOUND])]

    def _collate(
        self, sequences: list[tuple[list[int], list[int], list[list[float]]]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        width = max(len(s[0]) for s in sequences)
        ids = torch.tensor([s[0] + [0] * (width - len(s[0])) for s in sequences])
        targets = torch.tensor([s[1] + [IGNORED] * (width - len(s[1])) for s in sequences])
        return ids, targets, torch.tensor([p for s in sequences for p in s[2]])

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # type: ignore[override]
        draw = random.Random(self.recipe.seed * 31_337 + step)
        chosen = [self.sequence(self.train_dialogues[i], draw) for i in self.plan_of_batches[step]]
        return (*self._collate(chosen), self._plain_rows(self.settings.replay_rows, step))

    def _nats(self, ids: Tensor, targets: Tensor, posteriors: Tensor) -> Tensor:
        embeddings = self.model.model.get_input_embeddings()(ids)  # type: ignore[operator, union-attr]
        slots = ids == self.vocabulary.ids[SOUND]
        mixed = posteriors @ self.model.label_embeddings("emotion")  # type: ignore[operator]
        embeddings = embeddings.masked_scatter(slots[..., None], mixed[: int(slots.sum())].to(embeddings.dtype))
        since = int((targets != IGNORED).any(0).int().argmax())
        found = self.model.token_log_likelihood(embeddings, ids, targets.clamp_min(0), since)  # type: ignore[operator]
        return scored_nats(found, targets[:, since:])

    def loss(self, batch: tuple[Tensor, Tensor, Tensor, Tensor], step: int) -> tuple[Tensor, dict[str, float]]:  # type: ignore[override]
        ids, targets, posteriors, replay = batch
        reply = self._nats(ids, targets, posteriors)
        kept = self._plain_nats(replay)
        return reply + 0.2 * kept, {"reply": float(reply.detach()), "plain": float(kept.detach())}

    def validate(self) -> dict[str, float]:
        """Negative log-likelihood a token of labels and replies on the held-out tenth."""
        total = count = 0.0
        for start in range(0, len(self.held_dialogues), 24):
            rows = [self.sequence(d, None) for d in self.held_dialogues[start : start + 24]]
            ids, targets, posteriors = self._collate(rows)
            scored = int((targets != IGNORED).sum())
            total += float(self._nats(ids, targets, posteriors)) * scored
            count += scored
        return {"nats_per_token": total / count}

    def export(self, folder: Path) -> None:
        super().export(folder)
        save_file({"hashes": self.blocker}, folder / "spoken_before.safetensors")
        if self.config.exemplars:
            self.exemplars.save(folder / "exemplars.safetensors")
