"""The model card: what each part saw, its licence, how it scored, what fails and for whom. Written, never typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_INTRODUCTION = """# {name}

An assistant that hears a spoken query and its tone, thinks *listen - perceive - express*, and answers in speech. Every part
was trained from scratch by the recipes of this repository. English; 16 kHz; runs on a laptop processor.

This card is written by `omni pack` and `omni eval`.
"""

_LIMITS = """## What fails, and for whom

- It was taught to hear by 24 readers of American English books and by synthetic voices. Other accents, children, old or
  impaired voices, several people at once, noise and distance are heard worse; how much worse was not measured.
- Emotion was learned from fourteen North American actors who each spoke two sentences, and from short commands spoken in India.
  Acted feeling is stronger and more alike than real feeling. It says what a voice sounds like to this model, never what a
  person feels. Do not use it to judge people.
- Valence and arousal are expectations over published coordinates of the eight categories, not measurements.
- The language model is very small. It can miss the point, drift, or state something false. It knows no news, no time, no place.
- It is no therapist, no doctor and no emergency service; recognising an emergency is not part of this version.
- The reply voice is that of one LibriVox reader (LibriSpeech speaker 2416, CC BY 4.0); do not pass it off as a person.
"""


def card(index: dict[str, Any], results: Path | None = None) -> str:
    """The card's text from a checkpoint's index and, where there is one, the folder with the results' JSON files."""
    lines = [_INTRODUCTION.format(name=index["name"]), "## Parts\n"]
    lines += ["| file | trained by | on | licence | validation while training |", "|---|---|---|---|---|"]
    for name, entry in index["files"].items():
        scores = entry.get("scores") or {}
        shown = ", ".join(f"{k.removeprefix('valid_')} {v:.3g}" for k, v in scores.items() if k.startswith("valid_"))
        recipe = entry.get("recipe", "")
        lines.append(f"| `{name}` | {recipe} | {entry.get('data', '')} | {entry.get('licence', '')} | {shown} |")
    lines += ["", "Licences follow the data, statistics included: files marked NC may not be used commercially.", ""]
    lines += ["## Measured", "", *_measured(results), "", _LIMITS]
    return "\n".join(lines)


def _measured(results: Path | None) -> list[str]:
    """Rows (what, measured, beside, floor, aim) of every suite's JSON that has them."""
    rows: list[str] = []
    for path in sorted(results.glob("*.json")) if results and results.is_dir() else []:
        for row in json.loads(path.read_text(encoding="utf-8")).get("rows", []):
            cells = (row["what"], row["value"], row.get("beside", ""), row.get("floor", ""), row.get("aim", ""))
            rows.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    if not rows:
        return ["See `docs/results.md`."]
    return ["| what | measured | beside | floor | aim |", "|---|---|---|---|---|", *rows]
