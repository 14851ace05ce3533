"""Exchanges and debug twins of recipes/empathy_omni for tiny models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import soundfile

from omni.data.manifest import Clip, write
from omni.train.recipe import Recipe, load_recipe
from omni.turns import EMOTIONS
from tests.tiny import TEXTS, voiced_clip

RECIPES = Path(__file__).parents[2] / "recipes" / "empathy_omni"
PLAN = {"need": "seeking", "strategy": "question", "intent": "questioning", "style": "warm"}


def write_exchanges(folder: Path) -> Path:
    """Eight exchanges of two speakers with a reply's sound; every other one has a plan."""
    clips = []
    for i, emotion in enumerate(EMOTIONS):
        for name, pitch in (("q", 110 + 10 * i), ("r", 180 + 12 * i)):
            soundfile.write(folder / f"{name}{i}.wav", voiced_clip(0.8, pitch, i), 16_000)
        extra = {"reply": TEXTS[i + 1], "reply_audio": f"r{i}.wav", **({"plan": PLAN} if i % 2 else {})}
        clips.append(
            Clip(str(i), folder / f"q{i}.wav", f"s{i % 4 // 2}", TEXTS[i], emotion, duration_s=0.8, extra=extra)
        )
    write(folder / "exchanges.jsonl", clips)
    return folder


def twin(name: str, models: dict[str, str], **values: object) -> Recipe:
    """The debug twin of a recipe on tiny models."""
    recipe = load_recipe(RECIPES / name, debug=True)
    own = {**models, "exchanges": {"exchanges.jsonl": 1.0}, "held_out_speakers": ["s1"]}
    if not name.startswith("2"):
        own.pop("mimi", None)
    return replace(recipe, data={**recipe.data, **own, **values})
