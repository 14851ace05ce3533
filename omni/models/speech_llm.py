"""The speech language model: reads sound slots, writes the thought, then the reply.

A transformers `Qwen2ForCausalLM` of small size, so that the class is the one the full-size presets use, and beside its
softmax a head that copies words from the context (`nn/copying.py`).
Shapes: B batch, L new tokens, J tokens read so far, D width, V vocabulary, K sound slots, R candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM

from omni.config import LlmConfig
from omni.models.adapter import masked_scatter
from omni.models.memory import Memory
from omni.nn.copying import CopyHead
from omni.nn.sampling import Blocker, nucleus
from omni.spoken import FUNCTION_WORDS
from omni.text import END, EXPRESS, FIELDS, SAY, SOUND, SPECIALS, Vocabulary, label
from omni.turns import Plan


def make_llm(config: LlmConfig) -> Qwen2ForCausalLM:
    """A randomly initialised model of the configured size (tied embeddings)."""
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=config.vocabulary,
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.key_value_heads,
            intermediate_size=config.feedforward,
            max_position_embeddings=config.context_tokens,
            tie_word_embeddings=True,
            attention_dropout=0.0,
            attn_implementation="sdpa",  # type: ignore[call-arg]
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=None,
        )
    )


@dataclass
class Draft:
    """One candidate for the next sentence. `finished`: the reply ends with it (or before it, if `ids` is empty).

    ids without the end mark, their mean log-probability (the end mark's included), each token's state [L, D], and the
    mean nats `lost` where the likeliest token was not allowed.
    """

    ids: list[int]
    score: float
    states: Tensor
    finished: bool
    lost: float = 0.0


class SpeechLLM(nn.Module):
    """The language model with constrained decoding of the thought and sampling of the reply."""

    def __init__(self, config: LlmConfig, vocabulary: Vocabulary, blocker: Blocker | None = None) -> None:
        super().__init__()
        self.config, self.vocabulary, self.blocker = config, vocabulary, blocker
        self.model = make_llm(config)
        self.copying = CopyHead(config.width, config.copy_heads, len(SPECIALS)) if config.copy_heads else None
        words = (vocabulary.encode(word) for word in FUNCTION_WORDS)
        self.repeatable = {ids[0] for ids in words if len(ids) == 1} | set(vocabulary.encode(". , ? !"))
        self.marks = {m: vocabulary.ids[m] for m in (EXPRESS, SAY, END, SOUND)}

    # -- reading -------------------------------------------------------------------------------------------------

    def embed(self, ids: Tensor, sound: Tensor | None = None) -> Tensor:
        """Token embeddings [B, L, D] with the sound embeddings [B, K, D] in the sound slots."""
        embeddings = self.model.get_input_embeddings()(ids)
        return embeddings if sound is None else masked_scatter(embeddings, ids, self.marks[SOUND], sound)

    def label_embeddings(self, field: str) -> Tensor:
        """Embeddings [labels, D] of a field's tokens."""
        return self.model.get_input_embeddings().weight[self.vocabulary.field_ids[field]]  # type: ignore[index]

    def token_log_likelihood(self, embeddings: Tensor, ids: Tensor, targets: Tensor, since: int = 0) -> Tensor:
        """Log-probability [B, L - since] of each target [B, L] after the tokens up to it, from place `since` on.

        Differentiable; for training and for scoring.
        """
        states = self.model.model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        targets = targets[:, since:]
        logits = self.model.lm_head(states[:, since:])
        if self.copying is None:
            plain = logits.float()
            return plain.gather(-1, targets[..., None])[..., 0] - plain.logsumexp(-1)
        keys = self.copying.keys(embeddings, F.pad(embeddings, (0, 0, 1, 0))[:, :-1], states)
        return self.copying.log_likelihood(logits, states[:, since:], ids, keys, targets)

    def read(self, embeddings: Tensor, ids: Tensor, memory: Memory | None = None) -> tuple[Memory, Tensor, Tensor]:
        """Read tokens [B, L] on top of a memory. Returns (memory, states [B, L, D], last log-probabilities [B, V])."""
        if memory is None:
            memory = Memory(DynamicCache(config=self.model.config), ids[:, :0])
        out = self.model.model(
            inputs_embeds=embeddings, past_key_values=memory.cache, use_cache=True, **memory.places(ids.shape[1])
        )
        states = out.last_hidden_state
        logits = self.model.lm_head(states[:, -1:])
        memory.ids = torch.cat([memory.ids, ids], dim=1)
        if self.copying is None:
            return memory, states, logits[:, 0].log_softmax(-1)
        first = torch.zeros_like(embeddings[:, :1]) if memory.last is None else memory.last
        keys = self.copying.keys(embeddings, torch.cat([first, embeddings[:, :-1]], dim=1), states)
        memory.keys = keys if memory.keys is None else torch.cat([memory.keys, keys], dim=1)
        memory.last = embeddings[:, -1:]
        return memory, states, self.copying.mixture(logits, states[:, -1:], memory.ids, memory.keys)[:, 0]

    @torch.inference_mode()
    def prefill(self, ids: list[int], sound: Tensor | None = None, memory: Memory | None = None) -> tuple:
        """Read the same tokens in every row (one without a memory). Returns (memory, next log-probabilities [B, V])."""
        row = torch.tensor([ids]).expand(1 if memory is None else len(memory.ids), -1)
        memory, _, last = self.read(self.embed(row, sound), row, memory)
        return memory, last

    # -- thinking ------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def plan(
        self, ids: list[int], styles: Sequence[str], sound: Tensor | None = None
    ) -> tuple[Plan, list[int], Memory, Tensor]:
        """Write the express part greedily under the grammar; the style is one of `styles`.

        Returns the plan, the ids written (mark, labels and the say mark, already read), the memory, and the
        log-probabilities [1, V] of the reply's first token.
        """
        written = [self.marks[EXPRESS]]
        memory, logits = self.prefill(ids + written, sound)
        chosen: dict[str, str] = {}
        for field in ("need", "strategy", "intent", "style"):
            allowed = tuple(styles) if field == "style" else FIELDS[field]
            options = [self.vocabulary.ids[label(field, value)] for value in allowed]
            best = int(logits[0, options].argmax())
            chosen[field] = allowed[best]
            written.append(options[best])
            if field == "style":
                written.append(self.marks[SAY])
            memory, logits = self.prefill(written[memory.ids.shape[1] - len(ids) :], memory=memory)
        return Plan(chosen["need"], chosen["strategy"], chosen["intent"], chosen["style"]), written, memory, logits

    # -- answering -----------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def sentences(
        self, memory: Memory, first: Tensor, generator: torch.Generator, said: list[int], count: int | None = None
    ) -> list[Draft]:
        """Sample candidates for the next sentence in one batch; best mean log-probability first.

        `memory` and the log-probabilities [B, V] of the `first` token come from `plan`, or from `prefill` of the last
        sentence; the memory is left as it was. Each of its rows gives as many of the candidates. A token that would
        complete a run of words of a training reply is not allowed, nor is a trigram repeated from the sentence or from
        what was `said`. Once three quarters of the candidates are done the rest are given up. A candidate whose
        likeliest word was not allowed is counted as having `lost` `forced_penalty` nats: what comes after such a place seldom
        fits.
        """
        each = max(1, (count or self.config.candidates) // len(first))
        count = each * len(first)
        memory = memory.repeated(each)
        logits = first.repeat_interleave(each, 0)
        rows: list[list[int]] = [[] for _ in range(count)]
        totals, counts, lost = torch.zeros(count), torch.zeros(count), torch.zeros(count)
        states: list[Tensor] = []
        finished: dict[int, bool] = {}
        for _ in range(max(1, self.config.reply_tokens - len(said))):
            chosen, forced = self._choose(logits.clone(), [said + r for r in rows], generator)
            running = torch.tensor([r not in finished for r in range(count)])
            totals += torch.where(running, logits.log_softmax(-1).gather(-1, chosen[:, None])[:, 0], torch.zeros(()))
            lost += self.config.forced_penalty * (forced & running)
            counts += running
            memory, state, logits = self.read(self.embed(chosen[:, None]), chosen[:, None], memory)
            states.append(state[:, 0])
            for row, token in enumerate(chosen.tolist()):
                if row in finished:
                    continue
                if token == self.marks[END]:
                    finished[row] = True
                else:
                    rows[row].append(token)
                if token in self.vocabulary.stops:
                    finished[row] = False
            if 4 * len(finished) >= 3 * count:
                break
        stacked = torch.stack(states, 1)
        done = list(finished) or list(range(count))
        drafts = [
            Draft(
                rows[r],
                float(totals[r] / counts[r]),
                stacked[r, : len(rows[r])].clone(),
                finished.get(r, True),
                float(lost[r] / counts[r]),
            )
            for r in done
        ]
        return sorted(drafts, key=lambda d: d.score - d.lost, reverse=True)

    def _choose(self, logits: Tensor, rows: list[list[int]], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Next tokens [R], and whether the likeliest token of a row was forbidden, so that it had to go astray [R]."""
        logits[:, : len(SPECIALS)] = logits[:, : len(SPECIALS)].where(self._is_end(), torch.tensor(float("-inf")))
        often = [(r, t, ids.count(t)) for r, ids in enumerate(rows) for t in set(ids) - self.repeatable]
        if often:
            at_rows, at_tokens, counts = torch.tensor(often).unbind(-1)
            logits[at_rows, at_tokens] -= self.config.frequency_penalty * counts
        logits[[len(ids) < 3 for ids in rows], self.marks[END]] = float("-inf")
        tails = [self.blocker.tail(ids) if self.blocker else () for ids in rows]
        likely = logits.topk(min(24, logits.shape[1])).indices.tolist()
        wrong = [self._forbidden(ids, tail, tokens) for ids, tail, tokens in zip(rows, tails, likely)]
        forced = torch.tensor([tokens[0] in found for tokens, found in zip(likely, wrong)])
        while True:  # the likely tokens are checked before the draw, the others when they are drawn
            places = [(row, token) for row, found in enumerate(wrong) for token in found]
            if places:
                logits[torch.tensor(places).unbind(-1)] = float("-inf")
            chosen = nucleus(logits, self.config.temperature, self.config.top_p, generator)
            wrong = [self._forbidden(ids, tail, [t]) for ids, tail, t in zip(rows, tails, chosen.tolist())]
            if not any(wrong):
                return chosen, forced

    def _forbidden(self, ids: list[int], tail: tuple[str, ...], tokens: Sequence[int]) -> set[int]:
        """Those of the tokens that would repeat a trigram of the reply so far, or complete a run of a training reply."""
        repeated = {ids[i + 2] for i in range(len(ids) - 2) if ids[i : i + 2] == ids[-2:]}
        completing = self.blocker.completing(tail, tokens) if self.blocker else []
        return {t for t in tokens if t in repeated}.union(completing) - {self.marks[END]}

    def _is_end(self) -> Tensor:
        return torch.arange(len(SPECIALS)) == self.marks[END]

    @torch.inference_mode()
    def log_likelihood(self, memory: Memory, first: Tensor, targets: Sequence[Sequence[int]]) -> Tensor:
        """Mean log-probability of each target's ids after each row of a memory: [B, R]; the memory is left as it was.

        first: the log-probabilities [B, V] of the next token after each row.
        """
        rows, count, width = len(first), len(targets), max(map(len, targets))
        memory = memory.repeated(count)
        ids = torch.tensor([[*t, *[0] * (width - len(t))] for t in targets]).repeat(rows, 1)
        keep = torch.tensor([[1.0] * len(t) + [0.0] * (width - len(t)) for t in targets]).repeat(rows, 1)
        scores = first.repeat_interleave(count, 0).gather(-1, ids[:, :1])
        if width > 1:
            scores = torch.cat([scores, self._following(memory, ids)], dim=1)
        return ((scores * keep).sum(-1) / keep.sum(-1)).unflatten(0, (rows, count))

    def _following(self, memory: Memory, ids: Tensor) -> Tensor:
        """Log-probability [B, L - 1] of each of the ids [B, L] but the first, after a memory and those before."""
        embeddings, where = self.embed(ids[:, :-1]), memory.places(ids.shape[1] - 1)
        out = self.model.model(inputs_embeds=embeddings, past_key_values=memory.cache, use_cache=True, **where)
        states, logits = out.last_hidden_state, self.model.lm_head(out.last_hidden_state)
        if self.copying is None:
            return logits.float().log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        keys = self.copying.keys(embeddings, torch.cat([memory.last, embeddings[:, :-1]], dim=1), states)  # type: ignore[list-item]
        keys = torch.cat([memory.keys, keys], dim=1)  # type: ignore[list-item]
        seen = torch.cat([memory.ids, ids[:, :-1]], dim=1)
        return self.copying.log_likelihood(logits, states, seen, keys, ids[:, 1:])
