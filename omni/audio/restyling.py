"""A style laid over finished speech: pitch, its range, pace and level changed on WORLD frames.

For voices that cannot be told how to speak. Shapes: N samples at 16 kHz, T frames.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from omni.audio.world import Frames, analyse, resynthesise
from omni.turns import Style

CEPSTRUM = 60  # coefficients of the envelope: enough that nothing is heard to be lost


def restyle(samples: np.ndarray, style: Style) -> np.ndarray:
    """Sound [N] in the style; about N / rate samples. Untouched, to the sample, where the style asks for nothing.

    `pitch` multiplies F0, `pitch_range` its distance from the clip's mean in log F0, `rate` the pace; InputError below 50 ms.
    """
    sound = np.asarray(samples, np.float32)
    if style.pitch != 1.0 or style.pitch_range != 1.0 or style.rate != 1.0:
        frames = _paced(analyse(sound, CEPSTRUM), style.rate)
        log_pitch = np.log(frames.pitch_hz)
        middle = log_pitch[frames.voiced].mean() if frames.voiced.any() else log_pitch.mean()
        pitch = np.exp(middle + (log_pitch - middle) * style.pitch_range) * style.pitch
        sound = resynthesise(replace(frames, pitch_hz=pitch.astype(np.float32)))
        sound = sound[: round(len(samples) / style.rate)]
    louder = sound * np.float32(10 ** (style.energy_db / 20))
    peak = float(np.abs(louder).max(initial=0.0))
    return louder / np.float32(peak) if peak > 1.0 else louder


def _paced(frames: Frames, rate: float) -> Frames:
    """The same frames over T / rate frames, linearly between neighbours."""
    count = max(1, round(len(frames) / rate))
    if count == len(frames):
        return frames
    at = np.linspace(0, len(frames) - 1, count)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, len(frames) - 1)
    part = (at - low).astype(np.float32)

    def between(values: np.ndarray) -> np.ndarray:
        share = part.reshape(-1, *[1] * (values.ndim - 1))
        return ((1 - share) * values[low] + share * values[high]).astype(np.float32)

    return replace(
        frames,
        envelope=between(frames.envelope),
        aperiodicity=between(frames.aperiodicity),
        pitch_hz=np.exp(between(np.log(frames.pitch_hz))),
        voiced=frames.voiced[np.round(at).astype(int)],
        clause_ends=(count,),
    )
