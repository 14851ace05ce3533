"""Voice styles: one table of factors, contour shapes and targets in the space of utterance-level prosody.

A style acts in three ways. (1) The factors of `turns.Style` are exact: mean pitch, pitch range, rate and energy of the
prediction are moved to those of the neutral reading times the factor. (2) `Shape` bends the pitch contour in ways that
no factor reaches: tilt over the sentence, arch, movement at its end, height of the stressed syllables. (3) A target in
the space of `prosody_vector` enters the decoder through AdaLN, which was trained on the spread of read speech and adds
what goes along with such prosody there (spectral tilt, timing).

Factors and targets come from reviews of vocal expression, never from an emotional corpus; the size of the contour shapes
was then set on sentences of its own, so that the contours of any two styles differ audibly:
- Juslin and Laukka (2003), table 7: happiness has a high mean F0, a wide range, a quick rate, raised intensity, more
  high-frequency energy and rising contours; tenderness has a low F0, narrow range, slow rate, low intensity, little
  high-frequency energy; sadness is slow, soft, low and narrow with falling contours.
- Scherer (2003), table 2: joy raises mean, range and variability of F0, rate and intensity; sadness lowers all.
- Banse and Scherer (1996): low-arousal states fall in F0 and energy and lose energy above 1 kHz.
- Ohala (1984): low and falling pitch signals confidence and weight (serious), high and rising pitch friendliness.
- Gussenhoven (2002): late and high peaks sound engaged; a steep final fall closes a statement.
Comforting and apologetic lie between tenderness and sadness, warm between tenderness and happiness; calm is low
arousal without sadness; serious is low and narrow without softness.

Shapes: L units, S style vector.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omni.errors import UsageError
from omni.turns import STYLES, Style

#: The axes of the style vector, each a z-score within the speaker over utterances.
AXES = ("pitch_mean", "pitch_range", "rate", "energy", "tilt", "declination", "final")


@dataclass(frozen=True)
class Shape:
    """How a style bends the pitch contour, in semitones before the range factor.

    `tilt`: from -tilt at the sentence's start to +tilt at its end; `arch`: height of the middle over both ends;
    `final`: movement over the last syllables; `stress`: extra height of stressed vowels; `pause`: factor on pauses.
    """

    tilt: float = 0.0
    arch: float = 0.0
    final: float = 0.0
    stress: float = 0.0
    pause: float = 1.0


@dataclass(frozen=True)
class Entry:
    """One row of the table: exact factors, contour shape, and the target on AXES (z-scores)."""

    style: Style
    shape: Shape
    target: tuple[float, ...]


TABLE: dict[str, Entry] = {
    "neutral": Entry(Style("neutral"), Shape(), (0, 0, 0, 0, 0, 0, 0)),
    # between tenderness and happiness: a little high and lively, unhurried, an arch over the phrase that opens at its end
    "warm": Entry(
        Style("warm", pitch=1.04, pitch_range=1.18, rate=0.96, energy_db=-0.5),
        Shape(tilt=0.6, arch=3.0, final=2.2, stress=0.6, pause=1.05),
        (0.3, 0.4, -0.3, 0.0, -0.3, 0.0, 0.3),
    ),
    # low arousal without sadness: low, narrow, slow, even
    "calm": Entry(
        Style("calm", pitch=0.95, pitch_range=0.82, rate=0.91, energy_db=-1.5),
        Shape(tilt=1.0, arch=-0.9, final=-0.8, stress=-0.6, pause=1.25),
        (-0.5, -0.4, -0.5, -0.5, -0.4, 0.3, 0.0),
    ),
    # happiness: high, wide, quick, stronger, brighter, rising
    "cheerful": Entry(
        Style("cheerful", pitch=1.14, pitch_range=1.35, rate=1.09, energy_db=1.5),
        Shape(tilt=0.9, arch=0.4, final=1.2, stress=1.0, pause=0.85),
        (0.7, 0.7, 0.4, 0.5, 0.4, 0.5, 0.5),
    ),
    # tenderness towards someone sad: slow, soft, low, an arch that sinks at the end
    "comforting": Entry(
        Style("comforting", pitch=0.97, pitch_range=0.95, rate=0.86, energy_db=-3.0),
        Shape(tilt=-1.6, arch=1.6, final=-1.0, stress=-0.3, pause=1.35),
        (-0.3, -0.1, -0.6, -0.7, -0.6, -0.2, 0.0),
    ),
    # weight without softness: low, narrow, firm falls
    "serious": Entry(
        Style("serious", pitch=0.94, pitch_range=0.75, rate=0.95, energy_db=0.5),
        Shape(tilt=0.2, arch=-1.7, final=-1.8, stress=0.6, pause=1.15),
        (-0.5, -0.6, -0.2, 0.2, 0.2, -0.2, -0.5),
    ),
    # towards sadness: low, soft, slow, pitch that sinks from the start and lifts a little at the end
    "apologetic": Entry(
        Style("apologetic", pitch=0.96, pitch_range=0.85, rate=0.92, energy_db=-2.5),
        Shape(tilt=-2.0, arch=-1.0, final=1.8, stress=-0.3, pause=1.2),
        (-0.4, -0.3, -0.4, -0.6, -0.5, -0.5, 0.2),
    ),
}


def style_for(name: str, intensity: float = 0.7) -> Style:
    """The factors of style `name` at `intensity` in [0, 1]: half of the table's at 0, all of it from 0.5 on.

    UsageError for a name that is not in `turns.STYLES` or an intensity outside [0, 1].
    """
    entry = _entry(name)
    if not 0.0 <= intensity <= 1.0:
        raise UsageError(f"intensity {intensity} is outside 0 to 1")
    return _scaled(entry.style, min(1.0, 0.5 + intensity))


def _entry(name: str) -> Entry:
    if name not in TABLE:
        raise UsageError(f"no style {name!r}; choose one of {', '.join(STYLES)}")
    return TABLE[name]


def _scaled(style: Style, amount: float) -> Style:
    return Style(
        style.name, style.pitch**amount, style.pitch_range**amount, style.rate**amount, style.energy_db * amount
    )


def amount_of(style: Style) -> float:
    """How much of the table's row a `Style` asks for, 0 to 1.5: its factors projected on the row's (in logarithms)."""
    full, asked = _log_factors(_entry(style.name).style), _log_factors(style)
    square = float(full @ full)
    return float(np.clip(asked @ full / square, 0.0, 1.5)) if square > 0 else 0.0


def _log_factors(style: Style) -> np.ndarray:
    return np.array([np.log(style.pitch), np.log(style.pitch_range), np.log(style.rate), style.energy_db / 20.0])


def vector_of(style: Style) -> np.ndarray:
    """The AdaLN target of a style: float32 [S], zero for neutral."""
    return np.asarray(_entry(style.name).target, np.float32) * amount_of(style)


def bend(style: Style, position: np.ndarray, remaining_s: np.ndarray, stressed: np.ndarray) -> np.ndarray:
    """Semitones to add to the pitch of each unit of one sentence.

    `position` [L] 0 at the sentence's start to 1 at its end; `remaining_s` [L] seconds to its end; `stressed` bool [L].
    """
    shape, amount = _entry(style.name).shape, amount_of(style)
    middle = 1.0 - (2.0 * position - 1.0) ** 2
    ending = np.clip(1.0 - remaining_s / 0.45, 0.0, 1.0)
    bent = shape.tilt * (2.0 * position - 1.0) + shape.arch * (middle - 2.0 / 3.0)
    return amount * (bent + shape.final * ending + shape.stress * (stressed - 0.3))


def pause_factor(style: Style) -> float:
    """Factor on the length of pauses."""
    return _entry(style.name).shape.pause ** amount_of(style)
