"""A recipe: the YAML file that `omni train` runs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from omni.config import build
from omni.errors import ConfigError


@dataclass(frozen=True)
class Recipe:
    """What to train, on what, for how long. `part` names a row of `stages.STAGES`; `data` and `model` are its own."""

    part: str
    steps: int
    learning_rate: float
    rates: dict[str, float] = field(default_factory=dict)  # learning rates of weights by the beginning of their names
    muon_learning_rate: float = 0.0  # 0: AdamW for everything
    warmup_steps: int = 100
    decay_fraction: float = 0.3  # the last part of the steps, over which the rate falls linearly to zero
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    average_decay: float = 0.0  # exponential moving average of the weights; 0: none
    accumulate: int = 1
    bfloat16: bool = True
    checkpointing: bool = False  # language models of the full-size stages: activations are made again on the way back
    validate_every: int = 500
    save_every_s: float = 180.0
    export_best: bool = False  # export only when the validation score improves; else at every validation
    seed: int = 1
    data: dict = field(default_factory=dict)
    model: dict = field(default_factory=dict)
    debug: dict = field(default_factory=dict)  # overrides for the debug twin: top-level keys, data and model merged


def load_recipe(path: Path, debug: bool = False) -> Recipe:
    """Read a recipe; with `debug`, its few-step twin. ConfigError names file and key."""
    try:
        values: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError as error:
        raise ConfigError(f"no such recipe: {path}; shipped ones are in recipes/") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} is not readable YAML: {error}") from error
    recipe = build(Recipe, values, str(path))
    if not debug:
        return recipe
    merged: dict[str, Any] = {}
    for key, value in recipe.debug.items():
        base = getattr(recipe, key, None)
        merged[key] = {**base, **value} if isinstance(base, dict) and isinstance(value, dict) else value
    return replace(build(Recipe, {**values, **merged}, f"{path} (debug)"))
