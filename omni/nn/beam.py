"""From phone posteriors to words: CTC prefix beam search over a phone tree with a word n-gram model.

Shapes: S states (25 Hz), P CTC units, K hypotheses, U units tried per state.

A hypothesis is (node of the phone tree, state of the language model); as in CTC prefix search (Graves and Jaitly 2014;
Hannun et al. 2014, arXiv 1408.2873) it sums the alignments that end in the blank and those that end in its last unit.
All hypotheses advance together as arrays. Those that meet in one node and state merge; the loser's words are remembered
with what they lack, which gives the alternatives.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from omni.config import build
from omni.errors import ModelError
from omni.nn.lexicon import BETWEEN, ENTRY, Lexicon, pronunciations
from omni.nn.ngram import END, SPECIAL, NgramModel, read_tensors
from omni.nn.posteriors import as_scores, greedy_units
from omni.phones import BOUNDARY, UNIT_ID, UNITS
from omni.turns import Heard

STATES_HZ = 25.0
_NONE = -1e30
_CROWD = 3  # times the beam: how many ways on are kept until those that meet have merged


@dataclass(frozen=True)
class SearchConfig:
    """Weights and widths of the search; scores are natural logarithms."""

    language_weight: float = 1.2
    word_bonus: float = 0.5
    skip_penalty: float = 1.0  # for a word that follows without the boundary unit
    prior_weight: float = 0.0  # share of the units' log-prior that is taken off
    prior: tuple[float, ...] = ()  # log-priors of the units [P]
    beam: int = 250
    width: float = 12.0  # hypotheses worse than the best by more are dropped
    units: int = 12  # tried per state
    blank_skip: float = 0.9995  # states as sure as this to be blank add no unit
    alternatives: int = 4
    #: Logistic weights of the confidence, see `LexiconDecoder.evidence`.
    confidence: tuple[float, ...] = (3.0, 2.0, 1.5, 0.4, 0.0)


@dataclass
class Hypothesis:
    """Words (ids, and as text) and their score: acoustic, weighted language model, bonuses."""

    words: tuple[int, ...]
    score: float
    text: str = ""


@dataclass
class _Beam:
    """K hypotheses. `history` points into the words so far."""

    node: np.ndarray
    state: np.ndarray
    history: np.ndarray
    blank: np.ndarray
    last: np.ndarray

    def take(self, index: np.ndarray) -> _Beam:
        return _Beam(self.node[index], self.state[index], self.history[index], self.blank[index], self.last[index])

    def total(self) -> np.ndarray:
        return np.logaddexp(self.blank, self.last)


def _first(state: int) -> _Beam:
    return _Beam(np.array([BETWEEN]), np.array([state]), np.array([0]), np.zeros(1), np.full(1, _NONE))


@dataclass
class _Histories:
    """Growing lists of (previous history, word), and of merges: (winner, loser, by how much)."""

    previous: list[np.ndarray] = field(default_factory=lambda: [np.array([-1])])
    word: list[np.ndarray] = field(default_factory=lambda: [np.array([-1])])
    merges: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)
    count: int = 1

    def add(self, previous: np.ndarray, word: np.ndarray) -> np.ndarray:
        self.previous.append(previous)
        self.word.append(word)
        self.count += len(word)
        return np.arange(self.count - len(word), self.count)

    def close(self) -> tuple[np.ndarray, np.ndarray]:
        return np.concatenate(self.previous), np.concatenate(self.word)


class LexiconDecoder:
    """Words from posteriors. Without a lexicon the vocabulary is pronounced by the dictionary and its rules."""

    def __init__(
        self, language_model: NgramModel, lexicon: Lexicon | None = None, config: SearchConfig | None = None
    ) -> None:
        self.model, self.config = language_model, config or SearchConfig()
        self.lexicon = lexicon or Lexicon(pronunciations(language_model.words, skip=len(SPECIAL)))
        if self.lexicon.words.max() >= len(language_model.words):
            raise ModelError("the lexicon has words that the language model lacks; train both together")
        if self.config.prior and len(self.config.prior) != len(UNITS):
            raise ModelError(f"{len(self.config.prior)} unit priors for {len(UNITS)} units; tune the words again")
        self._ahead = self.lexicon.look_ahead(language_model.unigram) * self.config.language_weight
        self._ahead[ENTRY : BETWEEN + 1] = 0.0

    @classmethod
    def load(cls, path: Path) -> LexiconDecoder:
        """The decoder that `save` wrote; a file without lexicon or settings gets the usual ones. ModelError if broken."""
        stored = read_tensors(path)
        model = NgramModel.from_tensors(stored, path)
        lexicon = Lexicon.from_tensors(stored) if "lexicon_words" in stored else None
        text = stored["settings"].tobytes().decode() if "settings" in stored else "{}"
        return cls(model, lexicon, build(SearchConfig, json.loads(text), f"settings in {path}"))

    def save(self, path: Path) -> None:
        """Language model, lexicon and settings in one safetensors file."""
        settings = np.frombuffer(json.dumps(asdict(self.config)).encode(), np.uint8)
        self.model.save(path, {**self.lexicon.tensors(), "settings": settings})

    def tuned(self, **changes: float) -> LexiconDecoder:
        """The same decoder with other settings."""
        return LexiconDecoder(self.model, self.lexicon, replace(self.config, **changes))  # type: ignore[arg-type]

    def decode(self, log_probs: np.ndarray | Tensor, beam: int | None = None) -> Heard:
        """Log-posteriors [S, P] -> the best words, how sure they are, and other readings."""
        scores = as_scores(log_probs)
        found = self.search(scores, beam)
        return Heard(found[0].text, self.confidence(scores, found[0]), tuple(h.text for h in found[1:]))

    def search(self, log_probs: np.ndarray | Tensor, beam: int | None = None) -> list[Hypothesis]:
        """The best hypothesis and up to `alternatives` others, best first; one without words if there are none."""
        scores = as_scores(log_probs)
        sure_blank = scores[:, 0] > np.log(self.config.blank_skip)
        scores = scores - self._discount()
        limit = beam or self.config.beam
        histories = _Histories()
        hypotheses = _first(self.model.start)
        for row, sure in zip(scores.astype(np.float64), sure_blank):
            if sure:
                hypotheses.blank = hypotheses.total() + row[0]
                hypotheses.last = np.full(len(hypotheses.node), _NONE)
                continue
            hypotheses = self._merge(self._advance(hypotheses, row, limit), limit, histories)
            hypotheses = self._finish_words(hypotheses, limit, histories)
        return self._best(hypotheses, histories)

    def _discount(self) -> np.ndarray:
        """What is taken off the log-posteriors [P]: a share of the log-priors, so that rare units get a hearing."""
        return self.config.prior_weight * np.array(self.config.prior or np.zeros(len(UNITS)), np.float32)

    def _advance(self, now: _Beam, row: np.ndarray, limit: int) -> _Beam:
        """Every hypothesis stays (blank, or its unit again) or goes on to a child; those out of reach are left out."""
        tree, total = self.lexicon, now.total()
        unit = tree.unit[now.node]
        blank = total + row[0]
        last = np.where(unit >= 0, now.last + row[unit], _NONE)
        tried = np.argpartition(-row[1:], min(self.config.units, len(row) - 2))[: self.config.units] + 1
        child = tree.children[now.node[:, None], tried]
        base = np.where(unit[:, None] == tried, now.blank[:, None], total[:, None])
        score = base + row[tried] + self._ahead[child] - self._ahead[now.node][:, None]
        score -= self.config.skip_penalty * ((now.node[:, None] == ENTRY) & (child != BETWEEN))
        score[child < 0] = _NONE
        staying = np.maximum(blank, last)
        floor = max(staying.max(), score.max()) - self.config.width
        reachable = score[score > floor]
        if len(reachable) > _CROWD * limit:  # before the costly merge
            floor = -np.partition(-reachable, _CROWD * limit)[_CROWD * limit]
        source, which = np.nonzero(score > floor)
        keep = staying > floor
        moved = score[source, which]
        return _Beam(
            np.concatenate([now.node[keep], child[source, which]]),
            np.concatenate([now.state[keep], now.state[source]]),
            np.concatenate([now.history[keep], now.history[source]]),
            np.concatenate([blank[keep], np.full(len(moved), _NONE)]),
            np.concatenate([last[keep], moved]),
        )

    def _merge(self, now: _Beam, limit: int, histories: _Histories) -> _Beam:
        """One hypothesis for each (node, state): scores are summed, the better history stays. Then the best `limit`."""
        total = now.total()
        key = now.node * (len(self.model.words) + len(self.model.bigram)) + now.state
        order = np.lexsort((-total, key))
        key, now, total = key[order], now.take(order), total[order]
        first = np.ones(len(key), bool)
        first[1:] = key[1:] != key[:-1]
        if not first.all():
            starts = np.flatnonzero(first)
            group = np.cumsum(first) - 1
            losers = np.flatnonzero(~first & (now.history != now.history[starts[group]]))
            winners = starts[group[losers]]
            histories.merges.append((now.history[winners], now.history[losers], total[winners] - total[losers]))
            merged = now.take(starts)
            merged.blank = np.logaddexp.reduceat(now.blank, starts)
            merged.last = np.logaddexp.reduceat(now.last, starts)
            now, total = merged, merged.total()
        if len(total) > limit:
            now = now.take(np.argpartition(-total, limit)[:limit])
        return now

    def _finish_words(self, now: _Beam, limit: int, histories: _Histories) -> _Beam:
        """Add a hypothesis after each word that ends on a node just reached; the language model scores it here."""
        tree = self.lexicon
        floor = now.total().max() - self.config.width
        ends = np.flatnonzero((tree.word_count[now.node] > 0) & (now.last > floor))
        if not len(ends):
            return now
        counts = tree.word_count[now.node[ends]]
        source = np.repeat(ends, counts)
        offset = np.arange(len(source)) - np.repeat(np.cumsum(counts) - counts, counts)
        word = tree.words[tree.word_start[now.node[source]] + offset]
        language, state = self.model.score(now.state[source], word)
        score = now.last[source] + self.config.language_weight * language + self.config.word_bonus
        score -= self._ahead[now.node[source]]
        keep = np.flatnonzero(score > floor)
        if len(keep) > limit:
            keep = keep[np.argpartition(-score[keep], limit)[:limit]]
        if not len(keep):
            return now
        history = histories.add(now.history[source[keep]], word[keep])
        return _Beam(
            np.concatenate([now.node, np.full(len(keep), ENTRY)]),
            np.concatenate([now.state, state[keep]]),
            np.concatenate([now.history, history]),
            np.concatenate([now.blank, score[keep]]),
            np.concatenate([now.last, np.full(len(keep), _NONE)]),
        )

    def _best(self, now: _Beam, histories: _Histories) -> list[Hypothesis]:
        """Complete hypotheses with the end of the sentence scored, and readings that lost on the way to the best."""
        done = np.flatnonzero(now.node <= BETWEEN)
        total = now.total()
        if len(done):
            final = self.model.score(now.state[done], np.full(len(done), END))[0] * self.config.language_weight
            ends: dict[int, tuple[float, float, int]] = {}  # state -> (sum, best single, its history)
            for state, score, history in zip(now.state[done].tolist(), total[done] + final, now.history[done].tolist()):
                before, single, kept = ends.get(state, (_NONE, _NONE, history))
                ends[state] = (float(np.logaddexp(before, score)), *max((single, kept), (float(score), history)))
            ranked = sorted(((score, history) for score, _, history in ends.values()), reverse=True)
        else:  # nothing ended: what was finished before the last word
            ranked = [(float(total.max()), int(now.history[total.argmax()]))]
        previous, word = histories.close()

        def path(history: int) -> list[int]:
            steps = []
            while history > 0:
                steps.append(history)
                history = int(previous[history])
            return steps[::-1]

        best_score, best = ranked[0]
        spoken = path(best)
        candidates = [(score, tuple(word[path(h)].tolist())) for score, h in ranked]
        place = {h: i for i, h in enumerate(spoken, 1)}
        if histories.merges and spoken:
            winner, loser, lacks = (np.concatenate(parts) for parts in zip(*histories.merges))
            for i in np.flatnonzero(np.isin(winner, spoken)).tolist():
                rest = word[spoken[place[int(winner[i])] :]].tolist()
                candidates.append((best_score - float(lacks[i]), (*word[path(int(loser[i]))].tolist(), *rest)))
        found: dict[tuple[int, ...], float] = {}
        for score, words in sorted(candidates, key=lambda c: -c[0]):
            found.setdefault(words, score)
            if len(found) > self.config.alternatives:
                break
        names = self.model.words
        return [Hypothesis(w, s, " ".join(names[i] for i in w)) for w, s in found.items()]

    def evidence(self, log_probs: np.ndarray | Tensor, best: Hypothesis) -> np.ndarray:
        """What tells right words from wrong ones, [5]: 1; how far the sound of the words falls short of the best free
        path, a sounding state; mean log-posterior of that path there; language score a word; log of words a second."""
        scores = as_scores(log_probs)
        sounding = 1.0 - np.exp(scores[:, 0])
        states = float(sounding.sum()) + 1.0
        state, language = self.model.start, 0.0
        for word in (*best.words, END):
            one, state = self.model.score(state, word)
            language += one
        count = len(best.words)
        sound = best.score - self.config.language_weight * language - self.config.word_bonus * count
        free = (scores - self._discount()).max(axis=1).sum()
        pace = np.log((count + 0.5) * STATES_HZ / states)
        return np.array(
            [
                1.0,
                min(0.0, sound - free) / states,
                (scores.max(axis=1) * sounding).sum() / states,
                language / (count + 1),
                pace,
            ]
        )

    def confidence(self, log_probs: np.ndarray | Tensor, best: Hypothesis) -> float:
        """The expected share of right words, in [0, 1]: a logistic function of the evidence; 0 without words."""
        if not best.words:
            return 0.0
        return float(1 / (1 + np.exp(-np.dot(self.config.confidence, self.evidence(log_probs, best)))))

    def greedy(self, log_probs: np.ndarray | Tensor) -> str:
        """The words of the best free path: its units between two boundaries must spell a word exactly, or are lost."""
        tree, found = self.lexicon, []
        units = [*greedy_units(log_probs), UNIT_ID[BOUNDARY]]
        node = BETWEEN
        for unit in units:
            if unit != UNIT_ID[BOUNDARY]:
                node = int(tree.children[node, unit]) if node >= 0 else -1
                continue
            if node > BETWEEN and tree.word_count[node]:
                homophones = tree.words[tree.word_start[node] : tree.word_start[node] + tree.word_count[node]]
                found.append(self.model.words[homophones[self.model.unigram[homophones].argmax()]])
            node = BETWEEN
        return " ".join(found)
