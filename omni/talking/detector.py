"""When somebody speaks, as the sound streams in: Silero VAD (MIT, https://github.com/snakers4/silero-vad).

Shapes: n samples of a block, 16 kHz. The model reads windows of 512 samples (32 ms) after the 64 samples before them and
keeps a state; it is read from the installed package, so no network is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from omni.errors import ModelError, UsageError

RATE_HZ, WINDOW_SAMPLES, CONTEXT_SAMPLES, STATE_SHAPE = 16_000, 512, 64, (2, 1, 128)
#: Speech that is heard goes on while it is this much less likely than the threshold.
HELD_BELOW = 0.15
#: So many windows in a row must be speech before it counts as begun: one alone is a click.
START_WINDOWS = 2


@dataclass(frozen=True)
class Detected:
    """Speech "started" or "ended" at `sample`; known once `known` samples were heard."""

    kind: str
    sample: int
    known: int


@lru_cache(maxsize=1)
def _model() -> Any:
    """The model, shared by all detectors. ModelError without its packages."""
    missing = [name for name in ("silero_vad", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise ModelError(
            f"hearing when somebody speaks needs {' and '.join(missing)}; install with: pip install 'omni-empathy[serve]'"
        )
    import onnxruntime

    spec = find_spec("silero_vad")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    path = Path(next(iter(spec.submodule_search_locations))) / "data" / "silero_vad.onnx"
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class SpeechDetector:
    """Follows one microphone. What it finds does not depend on how the sound is cut into blocks."""

    def __init__(self, threshold: float = 0.5, silence_ms: int = 500, prefix_ms: int = 300) -> None:
        """`silence_ms` of silence end a turn; a start is put `prefix_ms` before the first sound of speech.

        UsageError for a threshold outside (0, 1) or times that are negative or above 10 s.
        """
        if not 0.0 < threshold < 1.0:
            raise UsageError(f"threshold is {threshold}; allowed: between 0 and 1, such as 0.5")
        for name, value in (("silence_ms", silence_ms), ("prefix_ms", prefix_ms)):
            if not 0 <= value <= 10_000:
                raise UsageError(f"{name} is {value}; allowed: 0 to 10000")
        self.threshold, self.silence_ms, self.prefix_ms = threshold, silence_ms, prefix_ms
        self._model = _model()
        self._rest = np.zeros(0, np.float32)
        self._heard = 0
        self.reset()

    def reset(self) -> None:
        """Forget what was heard, but not how much: places go on counting from the start of the sound."""
        self._state = np.zeros(STATE_SHAPE, np.float32)
        self._context = np.zeros(CONTEXT_SAMPLES, np.float32)
        self._row, self._last_end, self.speaking = 0, self._heard, False

    def push(self, block: np.ndarray) -> list[Detected]:
        """Hear the next samples [n], float32 in [-1, 1]; what they settled, oldest first."""
        sound = np.concatenate([self._rest, np.nan_to_num(np.asarray(block, np.float32))])
        whole = len(sound) // WINDOW_SAMPLES * WINDOW_SAMPLES
        self._rest = sound[whole:]
        found = [self._step(sound[at : at + WINDOW_SAMPLES]) for at in range(0, whole, WINDOW_SAMPLES)]
        return [event for event in found if event is not None]

    def likelihood(self, window: np.ndarray) -> float:
        """How likely the next window [512] is speech."""
        given = np.concatenate([self._context, window])[None]
        out, self._state = self._model.run(
            None, {"input": given, "state": self._state, "sr": np.array(RATE_HZ, np.int64)}
        )
        self._context = window[-CONTEXT_SAMPLES:]
        return float(out[0, 0])

    def _step(self, window: np.ndarray) -> Detected | None:
        likelihood = self.likelihood(window)
        self._heard += WINDOW_SAMPLES
        if not self.speaking:
            self._row = self._row + 1 if likelihood >= self.threshold else 0
            if self._row < START_WINDOWS:
                return None
            onset = self._heard - self._row * WINDOW_SAMPLES - self.prefix_ms * RATE_HZ // 1000
            start = max(onset, self._last_end, 0)
            self.speaking, self._row, self._last_end = True, 0, self._heard
            return Detected("started", start, self._heard)
        if likelihood >= self.threshold - HELD_BELOW:
            self._last_end = self._heard
        if self._heard - self._last_end < self.silence_ms * RATE_HZ // 1000:
            return None
        self.speaking = False
        return Detected("ended", self._last_end, self._heard)
