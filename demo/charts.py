"""Charts as inline SVG: small, for light and dark (their colours are variables of style.css), each with its figures in words.

Shapes: N samples, T frames, C columns of a drawing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise

import numpy as np
import torch

from omni.audio.prosody import HIGHEST_HZ, LOWEST_HZ, pitch
from omni.turns import COORDINATES, Audio, Perception

_COLUMNS = 160
#: Pitch is drawn between these, in octaves; most voices lie well inside.
_LOW_OCTAVE, _HIGH_OCTAVE = np.log2(LOWEST_HZ), np.log2(HIGHEST_HZ)
#: The parts of a turn in the order in which they work, and what they are called on the page.
PARTS = {
    "hear": "hear words and tone",
    "listen": "hear the words",
    "perceive": "hear the tone",
    "express": "think",
    "voice": "speak",
}


def drawing(width: int, height: int, words: str, inside: Sequence[str], kind: str) -> str:
    """An SVG image that is `words` to a screen reader."""
    return (
        f'<svg class="chart {kind}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(words)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(inside)}</svg>'
    )


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    """A line of text in a drawing."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def bars(perception: Perception) -> str:
    """The probabilities of the emotions as a bar chart, the likeliest first."""
    rows = sorted(perception.probabilities.items(), key=lambda row: -row[1])
    inside = []
    for number, (emotion, probability) in enumerate(rows):
        y, kind = 4 + 26 * number, "first" if number == 0 else "rest"
        inside += [
            text(82, y + 14, emotion, f"label {kind}", "end"),
            f'<rect class="trough" x="92" y="{y + 2}" width="200" height="15" rx="7.5"/>',
            f'<rect class="bar {kind}" x="92" y="{y + 2}" width="{max(4.0, 200 * probability):.1f}" height="15" rx="7.5"/>',
            text(340, y + 14, f"{probability:.0%}", f"figure {kind}", "end"),
        ]
    words = "Emotions heard: " + ", ".join(f"{e} {p:.0%}" for e, p in rows)
    return drawing(344, 26 * len(rows) + 4, words, inside, "bars")


def plane(perceptions: Sequence[Perception]) -> str:
    """Valence (left unpleasant, right pleasant) and arousal (below calm, above stirred), and the conversation's path."""

    def at(valence: float, arousal: float) -> tuple[float, float]:
        return 150 + 120 * valence, 140 - 120 * arousal

    inside = [
        '<circle class="field" cx="150" cy="140" r="120"/>',
        '<path class="axis" d="M30 140H270M150 20V260"/>',
        text(150, 13, "stirred", "axis-name", "middle"),
        text(150, 275, "still", "axis-name", "middle"),
        text(2, 132, "unpleasant", "axis-name"),
        text(298, 132, "pleasant", "axis-name", "end"),
    ]
    for emotion, place in COORDINATES.items():
        if emotion != "neutral":
            x, y = at(*place)
            inside.append(text(x, y + (9 if emotion == "fearful" else 1), emotion, "place", "middle"))
    points = [at(p.valence, p.arousal) for p in perceptions]
    if len(points) > 1:
        inside.append(f'<path class="path" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in points)}"/>')
    for number, (x, y) in enumerate(points):
        last = number == len(points) - 1
        inside.append(
            f'<circle class="{"now" if last else "before"}" cx="{x:.1f}" cy="{y:.1f}" r="{9 if last else 5}"/>'
        )
    words = "Valence and arousal from -1 to 1, turn by turn: " + (
        "; ".join(f"{p.emotion} at {p.valence:+.2f}, {p.arousal:+.2f}" for p in perceptions) or "nothing heard yet"
    )
    return drawing(300, 282, words, inside, "plane")


def sound(audio: Audio, whose: str) -> str:
    """Waveform and pitch contour of a sound that `whose` names ("you", "the reply")."""
    hz = pitch(torch.from_numpy(np.ascontiguousarray(audio.samples, np.float32))).hz
    peaks = _peaks(audio.samples)
    inside = ['<path class="axis" d="M0 45H640"/>']
    wave = "".join(f"M{4 * i + 2} {45 - 40 * p:.1f}V{45 + 40 * p:.1f}" for i, p in enumerate(peaks))
    inside.append(f'<path class="wave" d="{wave}"/>')
    inside += [f'<polyline class="pitch" points="{line}"/>' for line in _contour(hz)]
    voiced = hz[hz > 0]
    words = f"{whose}: {audio.duration_s:.1f} seconds"
    if len(voiced):
        low, middle, high = np.percentile(voiced, [5, 50, 95])
        words += f", pitch about {middle:.0f} hertz, between {low:.0f} and {high:.0f}"
        inside.append(text(638, 12, f"{middle:.0f} Hz", "figure pitch-name", "end"))
    return drawing(640, 90, f"Waveform and pitch of {words}", inside, "sound")


def _peaks(samples: np.ndarray) -> np.ndarray:
    """Height of the waveform [C] against its own peak, from samples [N]."""
    edges = np.linspace(0, len(samples), _COLUMNS + 1).astype(int)
    heights = np.array([np.abs(samples[a:b]).max(initial=0.0) for a, b in pairwise(edges)])
    return np.maximum(heights / max(float(heights.max(initial=0.0)), 1e-6), 0.02)


def _contour(hz: np.ndarray) -> list[str]:
    """The points of each voiced stretch of a pitch track [T], for polylines."""
    lines: list[list[str]] = [[]]
    for frame, value in enumerate(hz):
        if value > 0:
            height = (np.log2(value) - _LOW_OCTAVE) / (_HIGH_OCTAVE - _LOW_OCTAVE)
            lines[-1].append(f"{640 * frame / max(1, len(hz) - 1):.1f},{85 - 80 * height:.1f}")
        elif lines[-1]:
            lines.append([])
    return [" ".join(line) for line in lines if len(line) > 1]


def timings(spent_ms: Mapping[str, float]) -> str:
    """Milliseconds of each part of a turn as bars, and of the first sound; parts without a time are left out."""
    rows = [(name, spent_ms[part]) for part, name in PARTS.items() if part in spent_ms]
    longest = max([ms for _, ms in rows], default=1.0) or 1.0
    inside = []
    for number, (name, ms) in enumerate(rows):
        y = 4 + 26 * number
        inside += [
            text(132, y + 14, name, "label rest", "end"),
            f'<rect class="bar quiet" x="142" y="{y + 2}" width="{max(3.0, 125 * ms / longest):.1f}" height="15" rx="4"/>',
            text(340, y + 14, f"{ms:.0f} ms", "figure rest", "end"),
        ]
    words = "Time of each part: " + ", ".join(f"{name} {ms:.0f} milliseconds" for name, ms in rows)
    if "first_sound" in spent_ms:
        y = 4 + 26 * len(rows)
        inside.append(text(340, y + 14, f"first sound after {spent_ms['first_sound']:.0f} ms", "figure first", "end"))
        words += f"; first sound after {spent_ms['first_sound']:.0f} milliseconds"
    return drawing(344, 26 * (len(rows) + ("first_sound" in spent_ms)) + 4, words, inside, "timings")
