"""The speech language model: reads sound slots, writes the thought, then the reply.

A transformers `Qwen2ForCausalLM` of small size, so that the class is the one the full-size presets use.
Shapes: B batch, L tokens, D width, V vocabulary, K sound slots, R candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM

from omni.config import LlmConfig
from omni.models.adapter import masked_scatter
from omni.nn.sampling import Blocker, nucleus
from omni.text import END, EXPRESS, FIELDS, SAY, SOUND, SPECIALS, Vocabulary, label
from omni.turns import FITTING_STYLES, Plan


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
    """One candidate reply: ids without the end mark, their mean log-probability, and each token's state [L, D]."""

    ids: list[int]
    score: float
    states: Tensor
    finished: bool


class SpeechLLM(nn.Module):
    """The language model with constrained decoding of the thought and sampling of the reply."""

    def __init__(self, config: LlmConfig, vocabulary: Vocabulary, blocker: Blocker | None = None) -> None:
        super().__init__()
        self.config, self.vocabulary, self.blocker = config, vocabulary, blocker
        self.model = make_llm(config)
        self.marks = {m: vocabulary.ids[m] for m in (EXPRESS, SAY, END, SOUND)}

    # -- reading -------------------------------------------------------------------------------------------------

    def embed(self, ids: Tensor, sound: Tensor | None = None) -> Tensor:
        """Token embeddings [B, L, D] with the sound embeddings [B, K, D] in the sound slots."""
        embeddings = self.model.get_input_embeddings()(ids)
        return embeddings if sound is None else masked_scatter(embeddings, ids, self.marks[SOUND], sound)

    def label_embeddings(self, field: str) -> Tensor:
        """Embeddings [labels, D] of a field's tokens."""
        return self.model.get_input_embeddings().weight[self.vocabulary.field_ids[field]]  # type: ignore[index]

    @torch.inference_mode()
    def prefill(self, ids: list[int], sound: Tensor | None = None, cache: DynamicCache | None = None) -> tuple:
        """Read tokens into a key-value cache. Returns (cache, last logits [1, V])."""
        cache = cache if cache is not None else DynamicCache(config=self.model.config)
        embeddings = self.embed(torch.tensor([ids]), sound)
        out = self.model(inputs_embeds=embeddings, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return out.past_key_values, out.logits[:, -1]

    # -- thinking ------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def plan(
        self, ids: list[int], emotion: str, sound: Tensor | None = None
    ) -> tuple[Plan, list[int], DynamicCache, Tensor]:
        """Write the express part greedily under the grammar; the style is limited to those that fit the emotion.

        Returns the plan, the ids written (mark, labels and the say mark, already read), the cache, and the logits
        [1, V] of the reply's first token.
        """
        cache, _ = self.prefill(ids, sound)
        written = [self.marks[EXPRESS]]
        cache, logits = self.prefill(written, cache=cache)
        chosen: dict[str, str] = {}
        for field in ("need", "strategy", "intent", "style"):
            allowed = FITTING_STYLES[emotion] if field == "style" else FIELDS[field]
            options = [self.vocabulary.ids[label(field, value)] for value in allowed]
            best = int(logits[0, options].argmax())
            chosen[field] = allowed[best]
            written.append(options[best])
            cache, logits = self.prefill([options[best]], cache=cache)
        cache, logits = self.prefill([self.marks[SAY]], cache=cache)
        written.append(self.marks[SAY])
        return Plan(chosen["need"], chosen["strategy"], chosen["intent"], chosen["style"]), written, cache, logits

    # -- answering -----------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def answer(self, cache: DynamicCache, first: Tensor, seed: int, candidates: int | None = None) -> list[Draft]:
        """Sample candidate replies in one batch after `plan`, whose cache and first logits [1, V] it takes.

        Best mean log-probability first. A token that would complete a run of words of a training reply is not allowed,
        nor is a repeated trigram.
        """
        count = candidates or self.config.candidates
        generator = torch.Generator().manual_seed(seed)
        cache.batch_repeat_interleave(count)
        logits = first.expand(count, -1).clone()
        rows: list[list[int]] = [[] for _ in range(count)]
        totals = torch.zeros(count)
        states: list[Tensor] = []
        done = torch.zeros(count, dtype=torch.bool)
        for _ in range(self.config.reply_tokens):
            chosen = self._choose(logits, rows, generator)
            log_probabilities = logits.log_softmax(-1).gather(-1, chosen[:, None])[:, 0]
            totals += torch.where(done, torch.zeros(()), log_probabilities)
            for row, token in enumerate(chosen.tolist()):
                if not done[row] and token != self.marks[END]:
                    rows[row].append(token)
            done |= chosen == self.marks[END]
            out = self.model.model(
                inputs_embeds=self.model.get_input_embeddings()(chosen[:, None]), past_key_values=cache, use_cache=True
            )
            states.append(out.last_hidden_state[:, 0])
            logits = self.model.lm_head(states[-1])
            if bool(done.all()):
                break
        stacked = torch.stack(states, 1)
        drafts = [
            Draft(ids, float(totals[r]) / max(1, len(ids) + 1), stacked[r, : len(ids)].clone(), bool(done[r]))
            for r, ids in enumerate(rows)
        ]
        return sorted(drafts, key=lambda d: (d.finished, d.score), reverse=True)

    def _choose(self, logits: Tensor, rows: list[list[int]], generator: torch.Generator) -> Tensor:
        logits[:, : len(SPECIALS)] = logits[:, : len(SPECIALS)].where(self._is_end(), torch.tensor(float("-inf")))
        for row, ids in enumerate(rows):
            if len(ids) < 3:
                logits[row, self.marks[END]] = float("-inf")
            for token in logits[row].topk(min(24, logits.shape[1])).indices.tolist():
                if self._forbidden(ids, token):
                    logits[row, token] = float("-inf")
        while True:  # the likely tokens are checked before the draw, the others when they are drawn
            chosen = nucleus(logits, self.config.temperature, self.config.top_p, generator)
            wrong = [row for row, token in enumerate(chosen.tolist()) if self._forbidden(rows[row], token)]
            if not wrong:
                return chosen
            logits[wrong, chosen[wrong]] = float("-inf")

    def _forbidden(self, ids: list[int], token: int) -> bool:
        """Whether a token would repeat a trigram of the reply so far, or complete a run of a training reply."""
        if token == self.marks[END]:
            return False
        repeated = len(ids) >= 2 and any(
            ids[i : i + 2] == ids[-2:] and ids[i + 2] == token for i in range(len(ids) - 2)
        )
        return repeated or (self.blocker is not None and self.blocker.completes(ids, token))

    def _is_end(self) -> Tensor:
        return torch.arange(len(SPECIALS)) == self.marks[END]

    @torch.inference_mode()
    def log_likelihood(self, prompt: list[int], targets: list[list[int]], sound: Tensor | None = None) -> Tensor:
        """Mean log-probability of each target and its end mark after one prompt, in one padded batch: [R]."""
        rows = [[*t, self.marks[END]] for t in targets]
        width = max(map(len, rows))
        ids = torch.tensor([prompt + r + [0] * (width - len(r)) for r in rows])
        out = self.model(inputs_embeds=self.embed(ids, sound), use_cache=False, logits_to_keep=width + 1).logits
        scores = out[:, :-1].log_softmax(-1).gather(-1, ids[:, len(prompt) :, None])[..., 0]
        keep = torch.tensor([[1.0] * len(r) + [0.0] * (width - len(r)) for r in rows])
        return (scores * keep).sum(-1) / keep.sum(-1)
