"""From predicted prosody to the contours that the frame decoder reads: exact factors, style's bends, knots to frames.

Shapes: L units, T steps of 10 ms, R frames per step, K knots per unit (3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omni.models.style import bend, pause_factor
from omni.phones import VOICE_ID, VOICE_UNITS
from omni.spoken import Spoken
from omni.turns import Style

STEP_S = 0.010
SEMITONE = np.log(2.0) / 12.0
KNOT_PLACES = (1 / 6, 1 / 2, 5 / 6)
LONGEST_UNIT_STEPS, LONGEST_PAUSE_STEPS = 60, 60
_STRESSED = np.array([u[-1] == "1" for u in VOICE_UNITS])
_WH_WORDS = frozenset(["what", "when", "where", "who", "whose", "whom", "why", "which", "how"])


@dataclass(frozen=True)
class UnitProsody:
    """Prosody unit by unit. `lengths` int64 [L] steps; `pitch` [L, K] and `energy` [L] normalised; `pause` bool [L]."""

    lengths: np.ndarray
    pitch: np.ndarray
    energy: np.ndarray
    pause: np.ndarray


@dataclass(frozen=True)
class Contours:
    """What the frame decoder reads: `at` int64 [T] unit of each step; `local` float32 [T, 2R + 4]; `pitch` [T*R]."""

    at: np.ndarray
    local: np.ndarray
    pitch: np.ndarray
    clause_ends: tuple[int, ...]


def contour(unit: UnitProsody, ratio: int) -> Contours:
    """Straight lines through the knots (pauses have none), energy through the units' middles, place in the unit."""
    lengths = unit.lengths
    ends = np.cumsum(lengths)
    starts = ends - lengths
    total = int(ends[-1])
    at = np.repeat(np.arange(len(lengths)), lengths)
    times = (np.arange(total * ratio) + 0.5) / ratio
    spoken = ~unit.pause
    knot_times = (starts[:, None] + lengths[:, None] * np.array(KNOT_PLACES))[spoken].reshape(-1)
    pitch = np.interp(times, knot_times, unit.pitch[spoken].reshape(-1))
    energy = np.interp(times, starts + lengths / 2, unit.energy)
    step = np.arange(total) + 0.5
    place = (step - starts[at]) / lengths[at]
    local = np.concatenate(
        (
            pitch.reshape(total, ratio),
            energy.reshape(total, ratio),
            np.stack((place, np.sin(np.pi * place), lengths[at] / 10.0, np.log(lengths[at] / 8.0)), axis=1),
        ),
        axis=1,
    )
    pauses = [int(e) * ratio for e, is_pause in zip(ends, unit.pause) if is_pause][1:]
    return Contours(
        at, local.astype(np.float32), pitch.astype(np.float32), tuple(dict.fromkeys([*pauses, total * ratio]))
    )


def shape_prosody(
    units: Spoken, styled: np.ndarray, neutral: np.ndarray, style: Style, pitch_scale: float, pitch_gain: float
) -> UnitProsody:
    """The prediction [L, 5] in a style, moved so that its mean pitch, range, rate and energy are the neutral one's times
    the style's factors, and bent by the style's shape. `pitch_gain` undoes the narrowing of predicted averages."""
    pause = units.words < 0
    spoken = ~pause
    stretch = np.exp(neutral[spoken, 0]).sum() / np.exp(styled[spoken, 0]).sum() / style.rate
    steps = np.exp(styled[:, 0]) * stretch
    steps[pause] = np.exp(neutral[pause, 0]) * pause_factor(style) / style.rate
    limit = np.where(pause, LONGEST_PAUSE_STEPS, LONGEST_UNIT_STEPS)
    lengths = _whole(np.clip(steps, np.where(pause, 4, 2), limit))
    weights = (lengths * spoken)[:, None] / (lengths * spoken).sum() / 3
    mean, spread = _moments(neutral[:, 1:4], weights)
    own_mean, own_spread = _moments(styled[:, 1:4], weights)
    centred = (styled[:, 1:4] - own_mean) * (spread * pitch_gain / max(own_spread, 1e-4))
    bent = _bends(units, lengths, style)[:, None] * SEMITONE / pitch_scale
    centred, wanted = centred + bent, spread * pitch_gain * style.pitch_range
    off, now = _moments(centred, weights)
    # single syllables may not leave the voice's register: predictions far out are errors of tracking, learned by heart
    moved = np.clip((centred - off) * (wanted / max(now, 1e-4)), -2.0 * wanted, 2.2 * wanted)
    pitch = moved + mean + np.log(style.pitch) / pitch_scale
    energy = styled[:, 4] + (neutral[spoken, 4].mean() - styled[spoken, 4].mean())
    return UnitProsody(lengths, pitch + _question(units, lengths)[:, None] * SEMITONE / pitch_scale, energy, pause)


def _moments(values: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    mean = float((values * weights).sum())
    return mean, float(np.sqrt((((values - mean) ** 2) * weights).sum()))


def _whole(steps: np.ndarray) -> np.ndarray:
    """Whole numbers whose running sum stays within half a step of the given one's (so that the rate is kept)."""
    ends = np.round(np.cumsum(steps)).astype(np.int64)
    return np.maximum(np.diff(ends, prepend=0), 1)


def _sentences(units: Spoken) -> list[tuple[int, int]]:
    closing = {VOICE_ID[m] for m in (".", "?", "!")}
    ends = [i + 1 for i, unit in enumerate(units.units) if int(unit) in closing]
    return [(low, high) for low, high in zip([0, *ends], [*ends, len(units.units)]) if high > low]


def _bends(units: Spoken, lengths: np.ndarray, style: Style) -> np.ndarray:
    bent = np.zeros(len(lengths))
    for low, high in _sentences(units):
        times = np.cumsum(lengths[low:high]) * STEP_S
        position = times / times[-1]
        voiced_end = times[-2] if high - low > 1 else times[-1]
        stressed = _STRESSED[units.units[low:high]].astype(float)
        bent[low:high] = bend(style, position, np.maximum(voiced_end - times, 0.0), stressed)
    return bent


def _question(units: Spoken, lengths: np.ndarray, rise: float = 4.0, over_s: float = 0.30) -> np.ndarray:
    """Semitones of the final rise of a yes-no question (those that begin with a wh-word fall; Gussenhoven 2004)."""
    risen = np.zeros(len(lengths))
    for low, high in _sentences(units):
        first = next((units.text[w] for w in units.words[low:high] if w >= 0), "")
        if int(units.units[high - 1]) != VOICE_ID["?"] or first in _WH_WORDS:
            continue
        times = np.cumsum(lengths[low : high - 1]) * STEP_S
        risen[low : high - 1] = rise * np.clip(1.0 - (times[-1] - times) / over_s, 0.0, 1.0)
    return risen
