"""What trains in each stage, and with what: one row a stage. `omni train` looks the recipe's `part` up here."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from omni.errors import ConfigError
from omni.train.loop import Task, Trainer
from omni.train.recipe import Recipe

#: part -> "module:class"; imported when used, so that a part's extra packages are needed by that part alone.
STAGES: dict[str, str] = {
    "listener": "omni.train.listening:ListenerTask",
    "words": "omni.train.wording:WordsTask",
    "perceiver": "omni.train.perceiving:PerceiverTask",
    "sentiment": "omni.train.sentiment:SentimentTask",
    "language_model": "omni.train.speaking:LanguageModelTask",
    "listen_perceive": "omni.train.adapting:ListenPerceiveTask",
    "express": "omni.train.speaking:ExpressTask",
    "voice": "omni.train.voice:VoiceTask",
    "voice_express": "omni.train.voice:VoiceTask",
    "lpe_listen": "omni.train.lpe:LpeTask",
    "lpe_perceive": "omni.train.lpe:LpeTask",
    "empathy_respond": "omni.train.empathy_omni:RespondTask",
    "empathy_speak": "omni.train.empathy_omni:SpeakTask",
    "vocoder": "omni.train.vocoding:VocoderTask",
}


def make_task(recipe: Recipe, data: Path, cache: Path) -> Task:
    """The task of a recipe. ConfigError lists the parts when the name is unknown."""
    if recipe.part not in STAGES:
        raise ConfigError(f"part: unknown {recipe.part!r}; allowed: {', '.join(STAGES)}")
    module, name = STAGES[recipe.part].split(":")
    factory: Callable[[Recipe, Path, Path], Task] = getattr(importlib.import_module(module), name)
    return factory(recipe, data, cache)


def train(recipe: Recipe, data: Path, run: Path, minutes: float | None = None) -> Trainer:
    """Run a recipe in a run folder, resuming where it stopped; features are cached beside the runs."""
    trainer = Trainer(recipe, make_task(recipe, data, run.parent / "cache"), run)
    trainer.run(minutes)
    return trainer
