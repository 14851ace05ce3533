"""An instruct model that hears: speech stands in its prompt as slots, and it writes what it heard before it answers.

Shapes: N samples, K slots, L tokens, H language-model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from omni.backbones.speech_hearing import Slots, SpeechHearing
from omni.errors import ModelError
from omni.models.adapter import masked_scatter

#: Stands for the sound while a chat template is filled in; no tokenizer ever sees it.
SOUND = "\x00sound\x00"
HEARD, FELT = "Heard:", "Felt:"
LISTEN_TASK = "Write down what is said."
PERCEIVE_TASK = "Write down what is said, then how the voice sounds."
STEPS_TASK = f"{PERCEIVE_TASK} Then decide how to answer, and answer."


class SpeechChat(nn.Module):
    """A frozen causal model, its tokenizer, and a way of hearing. Only the adapters of the hearing are trained."""

    def __init__(self, llm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, hearing: SpeechHearing) -> None:
        """ModelError for a tokenizer without a padding token or chat template: its id marks the slots."""
        super().__init__()
        if tokenizer.pad_token_id is None or not tokenizer.chat_template:
            raise ModelError(
                "the language model's tokenizer lacks a padding token or a chat template; use an instruct model"
            )
        self.llm, self.tokenizer, self.hearing = llm.eval().requires_grad_(False), tokenizer, hearing
        self.slot = int(tokenizer.pad_token_id)  # type: ignore[arg-type]

    def train(self, mode: bool = True) -> SpeechChat:
        """Only the hearing's adapters ever leave evaluation mode."""
        super().train(mode)
        self.llm.eval()
        for name in self.hearing.FROZEN:
            getattr(self.hearing, name).eval()
        return self

    # -- prompts -------------------------------------------------------------------------------------------------

    def prompt(self, messages: Sequence[dict[str, str]], slots: Sequence[int]) -> list[int]:
        """Ids of a conversation up to the assistant's turn, the n-th `SOUND` in it as the n-th number of slots.

        ValueError unless there are as many sounds as numbers.
        """
        text = str(self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))
        parts = text.split(SOUND)
        if len(parts) != len(slots) + 1:
            raise ValueError(f"{len(parts) - 1} sounds in the prompt, slots of {len(slots)} given")
        ids = self.plain(parts[0])
        for count, part in zip(slots, parts[1:], strict=True):
            ids += [self.slot] * count + self.plain(part)
        return ids

    def plain(self, text: str) -> list[int]:
        """Ids of a text, no marks added."""
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def embed(self, ids: Sequence[int], slots: Sequence[Tensor]) -> Tensor:
        """Embeddings [1, L, H] of ids [L], the sounds' slots [1, K, H] in their places in order."""
        row = torch.tensor([list(ids)], device=self.llm.device)
        plain = self.llm.get_input_embeddings()(row)
        if not slots:
            return plain
        return masked_scatter(plain, row, self.slot, torch.cat([s.to(plain.device) for s in slots], dim=1))

    # -- training ------------------------------------------------------------------------------------------------

    def log_loss(self, heard: Slots, task: str, target: str) -> Tensor:
        """Mean cross-entropy of the `target` text and the end of the turn, after the sound and the `task`."""
        ids = self.prompt([{"role": "user", "content": f"{SOUND}\n{task}"}], [heard.slots.shape[1]])
        written = [*self.plain(target), int(self.tokenizer.eos_token_id)]  # type: ignore[arg-type]
        embeddings = self.embed([*ids, *written[:-1]], [heard.slots])
        states = self.llm.get_decoder()(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        logits = self.llm.get_output_embeddings()(states[0, len(ids) - 1 :])  # type: ignore[misc]
        return F.cross_entropy(logits.float(), torch.tensor(written, device=logits.device))

    # -- listening -----------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def write(
        self, embeddings: Tensor, stops: Sequence[int], most: int, cache: DynamicCache | None = None
    ) -> tuple[list[int], float]:
        """Greedily written ids after a prompt [1, L, H] up to one of `stops`, and the mean probability of their tokens.

        A `cache`, empty at first, keeps what was read: the prompt and the ids, the last one left out if `most` were written.
        """
        cache, model = DynamicCache(config=self.llm.config) if cache is None else cache, self.llm
        ids: list[int] = []
        chances: list[float] = []
        given: dict[str, Any] = {"inputs_embeds": embeddings}
        while len(ids) < most:
            logits = model(**given, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1].float()
            best = int(logits.argmax())
            chances.append(float(logits.log_softmax(-1)[best]))
            if best in stops:
                break
            ids.append(best)
            given = {"input_ids": torch.tensor([[best]], device=model.device)}
        return ids, float(np.exp(np.mean(chances))) if chances else 0.0
