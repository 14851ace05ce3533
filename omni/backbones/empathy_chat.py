"""An instruct model that hears words and tone, answers, and knows how its answer should sound (Empathy Omni).

Over `SpeechChat` it adds low-rank layers in the language model and the emotion head on the reply's first states.
Shapes: B exchanges, K slots, L tokens, R reply tokens, H language-model width, E emotion vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from omni.answers import Written
from omni.backbones import lora
from omni.backbones.chat import INSTRUCTION, LINES
from omni.backbones.local import pretrained
from omni.backbones.speech_chat import FELT, HEARD, SOUND, STEPS_TASK, SpeechChat
from omni.backbones.speech_hearing import DualHearing, SpeechHearing
from omni.backbones.speech_states import WavlmStates, WhisperStates
from omni.errors import ModelError
from omni.models.emotion_head import EmotionHead

HEAD, LORA, ABOUT = "emotion_head.safetensors", "lora", "hearing.yaml"
REPLY = "Reply:"
ALOUD = "Say aloud what follows."


@dataclass(frozen=True)
class Exchange:
    """What is learned from: the slots [1, K, H] of the query, the pieces of the thought as they are written, the reply."""

    slots: Tensor
    thought: tuple[str, ...]
    reply: str


@dataclass(frozen=True)
class Understood:
    """`nats`: mean cross-entropy of all that is written; embeddings and states [B, R, H] of the replies' tokens, `tokens` [B]
    of them in each row."""

    nats: Tensor
    embeddings: Tensor
    states: Tensor
    tokens: Tensor


def thought_pieces(text: str, emotion: str, plan: dict[str, str] | None) -> tuple[str, ...]:
    """What is written before the reply, cut where the run-time cuts it: given names of lines, labels walked along."""
    pieces = [f"{HEARD} {text}\n{FELT} {emotion}\n"]
    for number, (field, name) in enumerate(LINES.items() if plan else ()):
        pieces += [("\n" if number else "") + f"{name}:", f" {(plan or {})[field]}"]
    return (*pieces, ("\n" if plan else "") + REPLY)


class EmpathyChat(SpeechChat):
    """Hearing, language model and emotion head. `begin_tuning` makes the low-rank layers; else the language model is frozen."""

    def __init__(
        self, llm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, hearing: SpeechHearing, emotion: int
    ) -> None:
        super().__init__(llm, tokenizer, hearing)
        self.head = EmotionHead(int(llm.config.hidden_size), emotion)
        self._view: tuple[Any, ...] = ()

    def begin_tuning(self, settings: lora.LoraSettings, checkpointing: bool = False) -> None:
        """Put low-rank layers into the language model; with `checkpointing` its activations are made again on the way back."""
        self._view = (lora.tuned(self.llm, settings),)  # type: ignore[arg-type]
        if checkpointing:
            self.llm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]

    def train(self, mode: bool = True) -> EmpathyChat:
        """See `SpeechChat`; low-rank layers have dropout."""
        super().train(mode)
        self.llm.train(mode and bool(self._view))
        return self

    # -- reading -------------------------------------------------------------------------------------------------

    def asked(self, slots: int) -> list[int]:
        """Ids of a conversation of one spoken turn, up to the assistant's."""
        messages = [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": f"{SOUND}\n{STEPS_TASK}"}]
        return self.prompt(messages, [slots])

    def understand(self, exchanges: Sequence[Exchange]) -> Understood:
        """Read exchanges [B] in one batch, filled up on the right, which a causal model does not see."""
        rows: list[Tensor] = []
        written: list[list[int]] = []
        spans: list[tuple[int, int]] = []
        for exchange in exchanges:
            asked = self.asked(exchange.slots.shape[1])
            thought = [i for piece in exchange.thought for i in self.plain(piece)]
            reply = self.plain(f" {exchange.reply}")
            written.append([*thought, *reply, int(self.tokenizer.eos_token_id)])  # type: ignore[arg-type]
            spans.append((len(asked) + len(thought), len(reply)))
            rows.append(self.embed([*asked, *thought, *reply], [exchange.slots])[0])
        longest = max(len(row) for row in rows)
        embeddings = torch.stack([F.pad(row, (0, 0, 0, longest - len(row))) for row in rows])
        states = self.llm.get_decoder()(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        ends = [torch.arange(len(r) - len(w), len(r)) for r, w in zip(rows, written)]
        told = torch.cat([states[b, places] for b, places in enumerate(ends)])
        logits = self.llm.get_output_embeddings()(told)  # type: ignore[misc]
        nats = F.cross_entropy(logits.float(), torch.tensor([i for ids in written for i in ids], device=logits.device))
        most = max(count for _, count in spans)
        said = [torch.stack([_cut(x[b], span, most) for b, span in enumerate(spans)]) for x in (embeddings, states)]
        return Understood(nats, said[0], said[1], torch.tensor([count for _, count in spans], device=states.device))

    @torch.inference_mode()
    def aloud(self, text: str) -> Written:
        """What the model is in while it says a text that it was given; for sentences that are not its own."""
        ids = self.prompt([{"role": "user", "content": f"{ALOUD}\n{text}"}], []) + self.plain(REPLY)
        said = self.plain(f" {text}")
        embeddings = self.embed([*ids, *said], [])
        states = self.llm.get_decoder()(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        return Written(embeddings[0, len(ids) :], states[0, len(ids) :])

    @torch.inference_mode()
    def label_logits(self, cache: DynamicCache, ids: Sequence[int], labels: Sequence[str]) -> Tensor:
        """Log-likelihood [1, labels] of each label after what a cache holds and the ids [L]; the cache is used up."""
        ways = [self.plain(f" {label}") for label in labels]
        row = torch.tensor([list(ids)], device=self.llm.device)
        first = self.llm(input_ids=row, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1]
        found = first.float().log_softmax(-1).cpu()[[way[0] for way in ways]]
        most = max(map(len, ways)) - 1
        if most:
            cache.batch_repeat_interleave(len(ways))
            rows = torch.tensor([(way[:-1] + [self.ends] * most)[:most] for way in ways], device=self.llm.device)
            logits = (
                self.llm(input_ids=rows, past_key_values=cache, use_cache=True).logits.float().log_softmax(-1).cpu()
            )
            found = found + torch.tensor(
                [sum(float(logits[r, n, t]) for n, t in enumerate(way[1:])) for r, way in enumerate(ways)]
            )
        return found[None]

    @property
    def ends(self) -> int:
        """The token after which the model's turn is over."""
        return int(self.tokenizer.eos_token_id)  # type: ignore[arg-type]

    # -- files ---------------------------------------------------------------------------------------------------

    def save(self, folder: Path, about: dict[str, Any]) -> None:
        """Adapters, emotion head, low-rank layers where there are some, and `about`, which says what they fit."""
        self.hearing.save(folder)
        save_file({k: v.half().contiguous() for k, v in self.head.state_dict().items()}, folder / HEAD)
        if self._view:
            lora.save(self._view[0], folder / LORA)
        (folder / ABOUT).write_text(
            yaml.safe_dump({"kind": "empathy", **about, "emotion": self.head.emotion}), encoding="utf-8"
        )


def _cut(row: Tensor, span: tuple[int, int], most: int) -> Tensor:
    """[L, H] -> the span (start, count) of it, filled up to [most, H]."""
    start, count = span
    return F.pad(row[start : start + count], (0, 0, 0, most - count))


def load_empathy_chat(
    folder: Path, whisper: Path, wavlm: Path, adapters: Path, dtype: torch.dtype, device: str
) -> EmpathyChat:
    """What stage 1 has trained, over its models. ModelError if it is missing or of other models."""
    try:
        about = yaml.safe_load((adapters / ABOUT).read_text(encoding="utf-8"))
        inner, emotion = int(about["inner"]), int(about["emotion"])
        head = load_file(adapters / HEAD)
    except Exception as error:  # yaml and safetensors raise their own kinds
        raise ModelError(
            f"nothing trained in {adapters} ({error}); train recipes/empathy_omni (docs/training.md), or name its folder in a "
            "preset of your own, under options: adapters"
        ) from error
    llm = pretrained(AutoModelForCausalLM, folder, dtype, device)
    if (adapters / LORA).is_dir():
        llm = lora.merged(llm, adapters / LORA)
    width = llm.get_input_embeddings().weight.shape[1]
    hearing = DualHearing(
        WhisperStates.load(whisper, dtype, device), WavlmStates.load(wavlm, dtype, device), width, inner
    )
    hearing.restore(adapters)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    chat = EmpathyChat(llm, tokenizer, hearing.to(device), emotion)
    try:
        chat.head.load_state_dict(head)
    except RuntimeError as error:
        raise ModelError(
            f"{adapters / HEAD} does not fit this language model: {str(error).splitlines()[-1].strip()}"
        ) from error
    chat.head.to(device)
    return chat.eval()
