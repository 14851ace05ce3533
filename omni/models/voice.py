"""The reply voice as a whole: a sentence and a style in, sound out.

Shapes: L tokens of the language model, D its width, n samples of a piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from omni.models.decoder import ExpressiveDecoder
from omni.models.vocoder import Vocoder
from omni.spoken import Spoken, units
from omni.turns import Style


class Voice(Protocol):
    """What every reply voice can do."""

    @property
    def sample_rate_hz(self) -> int:
        """Samples a second of what it makes."""
        ...

    def speak(
        self, text: str, style: Style, states: Tensor | None = None, starts: Sequence[int] = ()
    ) -> Iterator[np.ndarray]:
        """Sound of one sentence in pieces [n], float32 in [-1, 1], as they are ready; nothing for a text without words.

        `states` [L, D] are the language model's, `starts` the token at which each word begins; a voice that was not
        trained with them ignores them.
        """
        ...


class ExpressiveVoice:
    """The expressive decoder and a vocoder."""

    def __init__(self, decoder: ExpressiveDecoder, vocoder: Vocoder, sample_rate_hz: int) -> None:
        self.decoder, self.vocoder, self.sample_rate_hz = decoder, vocoder, sample_rate_hz

    def speak(
        self, text: str, style: Style, states: Tensor | None = None, starts: Sequence[int] = ()
    ) -> Iterator[np.ndarray]:
        """See `Voice`; a clause at a time."""
        spoken = units(text)
        if not len(spoken.text):
            return
        for frames in self.decoder.speak_clauses(spoken, style, **self._read(spoken, states, starts)):
            yield from self.vocoder.stream(frames)

    def _read(self, spoken: Spoken, states: Tensor | None, starts: Sequence[int]) -> dict[str, Any]:
        """The state behind each unit; nothing when the decoder was not trained with states or the words do not match."""
        if states is None or not self.decoder.config.reads_llm_states or len(starts) != len(spoken.text):
            return {}
        places = np.array([starts[w] if w >= 0 else -1 for w in spoken.words], np.int64)
        return {"llm_states": states, "unit_to_token": places}
