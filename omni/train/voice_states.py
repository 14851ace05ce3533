"""The language model's states for words of a transcript, as the voice will meet them in a reply."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from omni.config import LlmConfig, load
from omni.errors import DataError
from omni.models.speech_llm import SpeechLLM
from omni.text import SAY
from omni.train.speaking import load_language_model

#: A transcript longer than this is read in windows, each without the words before it; replies are under 60 tokens.
WINDOW_WORDS = 40


class WrittenStates:
    """Callable of `VoiceTask.states`: words -> (states [tokens, H] float32, token of each word)."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DataError(f"no language model in {folder}; train it first, or leave data.language_model empty")
        self.llm: SpeechLLM = load_language_model(folder, load(LlmConfig, folder / "llm.yaml")).eval()
        self._read = lru_cache(maxsize=4096)(self._window)

    def __call__(self, words: list[str]) -> tuple[Tensor, list[int]]:
        """States of the last layer at each token of the words, written after the mark that opens a reply."""
        states: list[Tensor] = []
        places: list[int] = []
        offset = 0
        for start in range(0, len(words), WINDOW_WORDS):
            found, tokens = self._read(tuple(words[start : start + WINDOW_WORDS]))
            states.append(found)
            places.extend(offset + t for t in tokens)
            offset += len(found)
        return torch.cat(states), places

    @torch.no_grad()
    def _window(self, words: tuple[str, ...]) -> tuple[Tensor, list[int]]:
        vocabulary = self.llm.vocabulary
        ids: list[int] = []
        places: list[int] = []
        for word in words:
            places.append(len(ids))
            ids.extend(vocabulary.encode(word))
        mark = vocabulary.ids[SAY]
        out = self.llm.model.model(input_ids=torch.tensor([[mark, *ids]]))
        return out.last_hidden_state[0, 1:].float(), places
