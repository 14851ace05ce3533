"""The training loop: overfits, is killed and resumes with the identical next loss, and never pickles."""

from __future__ import annotations

import json
import math
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

from omni.data.manifest import Clip, write
from omni.errors import ConfigError, ModelError
from omni.phones import listener_targets
from omni.train.listening import ListenerTask, collapse, degrade
from omni.train.loop import Average, Trainer, optimisers, rate_at
from omni.train.recipe import Recipe
from omni.train.stages import STAGES, make_task
from tests.tiny import SAMPLE_RATE_HZ

WORDS = ("go", "see", "now", "me", "ha")


def sung(text: str) -> np.ndarray:
    """A chord for every unit, so that sound and transcript belong together."""
    time = np.arange(round(0.12 * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    tones = [
        np.sin(2 * np.pi * (150 + 130 * u) * time) + 0.5 * np.sin(2 * np.pi * 61 * (u + 2) * time)
        for u in listener_targets(text)
    ]
    gap = np.zeros(round(0.04 * SAMPLE_RATE_HZ))
    pieces = [piece for tone in tones for piece in (0.3 * tone * np.hanning(len(tone)), gap)]
    return (
        np.concatenate([gap, *pieces])
        + 0.001 * np.random.default_rng(0).standard_normal(sum(map(len, pieces)) + len(gap))
    ).astype(np.float32)


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A handful of sentences with a manifest."""
    folder = tmp_path_factory.mktemp("spoken")
    (folder / "audio").mkdir()
    clips = []
    for number in range(5):
        text = " ".join(WORDS[(number + k) % 5] for k in range(2))
        path = folder / "audio" / f"{number}.wav"
        soundfile.write(path, sung(text), SAMPLE_RATE_HZ)
        clips.append(Clip(f"c{number}", path, f"s{number % 2}", text, duration_s=len(sung(text)) / SAMPLE_RATE_HZ))
    write(folder / "manifest.jsonl", clips)
    return folder


def recipe(**changes: Any) -> Recipe:
    base = Recipe(
        part="listener", steps=12, learning_rate=0.003, warmup_steps=2, bfloat16=False, validate_every=1000, seed=3,
        save_every_s=0.0, weight_decay=0.01,
        data={"manifests": ["manifest.jsonl"], "variants": 1, "batch_frames": 200, "bin_masks": 1, "widest_bins": 4},
        model={"width": 32, "feedforward": 48, "heads": 2, "outer_layers": 1, "inner_layers": 1, "last_layers": 1},
    )  # fmt: skip
    return replace(base, **changes)


class Killed(BaseException):
    """The machine went away."""


class Fragile:
    """A task that is killed in the middle of a step."""

    def __init__(self, task: Any, at_step: int) -> None:
        self.task, self.at_step, self.model = task, at_step, task.model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def loss(self, batch: Any, step: int) -> tuple[Tensor, dict[str, float]]:
        if step == self.at_step:
            raise Killed
        return self.task.loss(batch, step)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"muon_learning_rate": 0.002, "average_decay": 0.9},
        {"accumulate": 2, "bfloat16": True, "average_decay": 0.9},
    ],
    ids=["adamw", "muon and average", "accumulated bfloat16"],
)
def test_killed_and_resumed_gives_the_identical_next_losses(
    spoken: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    chosen = recipe(**changes)
    if "muon_learning_rate" in changes:
        chosen = replace(chosen, steps=8, model={**chosen.model, "width": 68, "feedforward": 68})  # over 64: for Muon
    cache = tmp_path / "cache"
    unbroken = Trainer(chosen, ListenerTask(chosen, spoken, cache), tmp_path / "whole")
    losses = unbroken.run().losses
    assert ("Muon" in [type(o).__name__ for o in unbroken.optimisers]) == ("muon_learning_rate" in changes)
    task = Fragile(ListenerTask(chosen, spoken, cache), 5)
    with pytest.raises(Killed):
        Trainer(chosen, task, tmp_path / "broken").run()
    torch.manual_seed(99)
    resumed = Trainer(chosen, ListenerTask(chosen, spoken, cache), tmp_path / "broken")
    result = resumed.run()
    assert result.losses == losses[5:]
    for name, weight in unbroken.task.model.state_dict().items():
        assert torch.equal(weight, resumed.task.model.state_dict()[name]), name
    if unbroken.average is not None and resumed.average is not None:
        for name, weight in unbroken.average.weights.items():
            assert torch.equal(weight, resumed.average.weights[name])


@pytest.mark.slow
def test_it_learns_a_handful_of_sentences_by_heart(spoken: Path, tmp_path: Path) -> None:
    chosen = recipe(
        steps=260, learning_rate=0.004, average_decay=0.9, decay_fraction=0.3, save_every_s=1e9,
        data={"manifests": ["manifest.jsonl"], "variants": 1, "batch_frames": 1000, "bin_masks": 0},
        model={"width": 32, "feedforward": 64, "heads": 2, "outer_layers": 1, "inner_layers": 1, "last_layers": 1,
               "dropout": 0.0},
    )  # fmt: skip
    task = ListenerTask(chosen, spoken, tmp_path / "cache")
    result = Trainer(chosen, task, tmp_path / "run").run()
    assert result.step == 260
    assert result.losses[-1] < 0.1 * result.losses[0]
    assert result.figures["phone_error_rate"] <= 0.1
    assert (tmp_path / "run" / "export" / "listener.safetensors").is_file()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if "loss" in r] == list(range(10, 261, 10))
    assert rows[-1]["valid_phone_error_rate"] == pytest.approx(result.figures["phone_error_rate"])


def test_state_is_safetensors_and_nothing_is_pickled(spoken: Path, tmp_path: Path) -> None:
    chosen = recipe(steps=2, validate_every=2, average_decay=0.9)
    Trainer(chosen, ListenerTask(chosen, spoken, tmp_path / "cache"), tmp_path / "run").run()
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert {p.name for p in files if p.parent.name == "run"} >= {"state.safetensors", "metrics.jsonl"}
    for path in files:
        head = path.read_bytes()[:2]
        assert not zipfile.is_zipfile(path), path
        assert head != b"\x80\x02", path  # a pickle
        if path.parent.name == "tensorboard":
            continue
        assert path.suffix in {".safetensors", ".jsonl", ".json", ".yaml", ".txt", ".png", ".f16"}, path


def test_a_finished_run_does_nothing_more(spoken: Path, tmp_path: Path) -> None:
    chosen = recipe(steps=2)
    Trainer(chosen, ListenerTask(chosen, spoken, tmp_path / "cache"), tmp_path / "run").run()
    again = Trainer(chosen, ListenerTask(chosen, spoken, tmp_path / "cache"), tmp_path / "run").run()
    assert (again.step, again.losses) == (2, [])


def test_out_of_time_saves_validates_and_exports(spoken: Path, tmp_path: Path) -> None:
    chosen = recipe(steps=50)
    result = Trainer(chosen, ListenerTask(chosen, spoken, tmp_path / "cache"), tmp_path / "run").run(minutes=0.0)
    assert result.step == 1
    assert "phone_error_rate" in result.figures
    assert (tmp_path / "run" / "state.safetensors").is_file()
    assert (tmp_path / "run" / "export" / "listener.yaml").is_file()


def test_another_models_state_is_refused(spoken: Path, tmp_path: Path) -> None:
    chosen = recipe(steps=1)
    Trainer(chosen, ListenerTask(chosen, spoken, tmp_path / "cache"), tmp_path / "run").run()
    other = recipe(steps=2, model={**chosen.model, "width": 16})
    with pytest.raises(ModelError, match="from another model; choose another --run folder"):
        Trainer(other, ListenerTask(other, spoken, tmp_path / "cache"), tmp_path / "run").run()


def test_figures_after_a_kill_are_not_logged_twice(spoken: Path, tmp_path: Path) -> None:
    chosen = recipe(steps=12)
    task = ListenerTask(chosen, spoken, tmp_path / "cache")
    Trainer(replace(chosen, steps=5), task, tmp_path / "run").run()
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10, "loss": 99.0}\n')  # written after the last save, before the kill
    Trainer(chosen, ListenerTask(chosen, spoken, tmp_path / "cache"), tmp_path / "run").run()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    tenth = [r for r in rows if r["step"] == 10]
    assert len(tenth) == 1
    assert tenth[0]["loss"] != 99.0


def test_rate_warms_up_stays_and_falls_to_zero() -> None:
    chosen = recipe(steps=100, warmup_steps=10, decay_fraction=0.4)
    rates = [rate_at(s, chosen) for s in range(101)]
    assert rates[:10] == pytest.approx([(s + 1) / 10 for s in range(10)])
    assert set(rates[10:61]) == {1.0}
    assert rates[60:] == pytest.approx([(100 - s) / 40 for s in range(60, 101)])
    assert rate_at(0, recipe(warmup_steps=0)) == 1.0


class Mixed(nn.Module):
    """One weight of each sort."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(90, 80)
        self.hidden = nn.Linear(80, 70)
        self.small = nn.Linear(70, 20)
        self.output_head = nn.Linear(70, 90)
        self.frozen = nn.Linear(80, 80).requires_grad_(False)


def test_muon_gets_hidden_matrices_and_adamw_the_rest() -> None:
    model = Mixed()
    adamw, muon = optimisers(model, recipe(muon_learning_rate=0.01, weight_decay=0.1))
    assert [id(p) for g in muon.param_groups for p in g["params"]] == [id(model.hidden.weight)]
    decayed, plain = adamw.param_groups
    expected = {id(model.embed.weight), id(model.small.weight), id(model.output_head.weight)}
    assert {id(p) for p in decayed["params"]} == expected
    assert decayed["weight_decay"] == 0.1
    assert plain["weight_decay"] == 0.0
    assert all(p.ndim == 1 for p in plain["params"])
    assert len(optimisers(model, recipe())) == 1


def test_average_follows_the_formula_and_swaps_back() -> None:
    model = nn.Linear(3, 3)
    average = Average(model, 0.9)
    expected = model.weight.detach().clone()
    for step in range(1, 40):
        with torch.no_grad():
            model.weight.add_(0.1)
        average.update(model, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    assert torch.allclose(average.weights["weight"], expected, atol=1e-6)
    now = model.weight.detach().clone()
    average.swap(model)
    assert torch.allclose(model.weight, expected, atol=1e-6)
    average.swap(model)
    assert torch.equal(model.weight, now)


class Bad:
    """A task whose second batch is not finite."""

    def __init__(self) -> None:
        self.model = nn.Linear(2, 1)

    def batch(self, step: int) -> Tensor:
        return torch.full((1, 2), math.nan if step == 1 else 1.0)

    def loss(self, batch: Tensor, step: int) -> tuple[Tensor, dict[str, float]]:
        return self.model(batch).square().sum(), {}

    def validate(self) -> dict[str, float]:
        return {"score": 0.0}

    def export(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)


def test_a_batch_that_is_not_finite_does_not_spoil_the_weights(tmp_path: Path) -> None:
    task = Bad()
    result = Trainer(recipe(steps=4), task, tmp_path).run()
    assert math.isnan(result.losses[1])
    assert math.isfinite(result.losses[2])
    assert bool(torch.isfinite(task.model.weight).all())


def test_batches_are_a_function_of_the_step(spoken: Path, tmp_path: Path) -> None:
    first, second = (ListenerTask(recipe(), spoken, tmp_path / "cache") for _ in range(2))
    for step in (4, 0, 4):
        for a, b in zip(first.batch(step), second.batch(step), strict=True):
            assert torch.equal(a, b)


def test_degraded_sound_is_a_function_of_the_seed(tmp_path: Path) -> None:
    for kind in ("noise", "rir"):
        (tmp_path / kind).mkdir()
        sound = np.random.default_rng(1).standard_normal(4000 if kind == "noise" else 400) * (
            0.1 if kind == "noise" else np.exp(-np.arange(400) / 60)
        )
        soundfile.write(tmp_path / kind / "a.flac", np.clip(sound, -0.9, 0.9), SAMPLE_RATE_HZ)
    samples = sung("go now")
    for seed in range(12):
        once, twice = (degrade(samples, seed, tmp_path) for _ in range(2))
        np.testing.assert_array_equal(once, twice)
        assert 0.88 * 0.99 < len(samples) / len(once) < 1.12 * 1.01 or 0.87 < len(once) / len(samples) < 1.14
        assert np.isfinite(once).all()
    assert len({len(degrade(samples, s, None)) for s in range(30)}) == 7


def test_collapse_merges_repeats_and_drops_blanks() -> None:
    assert collapse([0, 3, 3, 0, 3, 4, 4, 0, 0]) == [3, 3, 4]


def test_unknown_parts_are_named_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown 'ears'; allowed: listener"):
        make_task(recipe(part="ears"), tmp_path, tmp_path)
    assert "listener" in STAGES
