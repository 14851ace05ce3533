"""The recipes of LPE on tiny models: both stages, kill and resume, what is frozen, and that no reply is ever trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch
from safetensors.torch import load_file

from omni.data.manifest import Clip, write
from omni.errors import ConfigError, DataError
from omni.train.loop import Trainer
from omni.train.lpe import LpeTask
from omni.train.recipe import Recipe, load_recipe
from omni.turns import EMOTIONS
from tests.tiny import TEXTS, voiced_clip

RECIPES = Path(__file__).parents[2] / "recipes" / "lpe"
SECRET = "zebra"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight clips of two speakers with words, an emotion, and a reply that must stay out."""
    folder = tmp_path_factory.mktemp("data")
    clips = []
    for i, emotion in enumerate(EMOTIONS):
        audio = folder / f"{i}.wav"
        soundfile.write(audio, voiced_clip(0.8, 110 + 10 * i, i), 16_000)
        text, extra = TEXTS[i], {"reply": f"the {SECRET} says {SECRET}"}
        clips.append(Clip(str(i), audio, f"s{i % 2}", text, emotion, duration_s=0.8, extra=extra))
    write(folder / "clips.jsonl", clips)
    return folder


@pytest.fixture
def twin(chat_folder: Path, wavlm_folder: Path) -> Callable[..., Recipe]:
    """The debug twin of a recipe, on tiny models and the clips of `data`."""

    def make(name: str, **values: object) -> Recipe:
        recipe = load_recipe(RECIPES / name, debug=True)
        own = {
            "clips": ["clips.jsonl"],
            "llm": str(chat_folder),
            "wavlm": str(wavlm_folder),
            "held_out_speakers": ["s1"],
        }
        return replace(recipe, data={**recipe.data, **own, **values})

    return make


def test_both_stages_train_export_and_resume(twin: Callable[..., Recipe], data: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("1_listen", "2_perceive")):
        recipe = twin(f"{name}.yaml")
        result = Trainer(recipe, LpeTask(recipe, data, tmp_path / "cache"), tmp_path / name).run()
        assert result.step == 2
        assert set(result.figures) == ({"nats", "emotion_missed"} if number else {"nats"})
        assert (tmp_path / name / "export" / "adapters.safetensors").is_file()
        assert "kind: lpe" in (tmp_path / name / "export" / "hearing.yaml").read_text()
        saved = load_file(tmp_path / name / "state.safetensors")
        assert not any("llm." in key or "wavlm." in key for key in saved)
        longer = replace(recipe, steps=4)
        resumed = Trainer(longer, LpeTask(longer, data, tmp_path / "cache"), tmp_path / name).run()
        straight = Trainer(longer, LpeTask(longer, data, tmp_path / "cache"), tmp_path / f"{name}_straight").run()
        assert resumed.losses == pytest.approx(straight.losses[2:], rel=1e-5)


def test_each_stage_trains_its_adapter_alone(twin: Callable[..., Recipe], data: Path, tmp_path: Path) -> None:
    listen = twin("1_listen.yaml")
    Trainer(listen, LpeTask(listen, data, tmp_path / "cache"), tmp_path / "1_listen").run()
    for name, learned in (("1_listen.yaml", "hearing.content."), ("2_perceive.yaml", "hearing.tone.")):
        recipe = twin(name)
        task = LpeTask(recipe, data, tmp_path / "cache")
        before = {k: v.clone() for k, v in task.model.state_dict().items()}
        Trainer(recipe, task, tmp_path / f"again_{name}").run()
        changed = {k for k, v in task.model.state_dict().items() if not torch.equal(v, before[k])}
        assert changed
        assert all(k.startswith(learned) for k in changed)


def test_no_reply_ever_enters_training(
    twin: Callable[..., Recipe], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listen = twin("1_listen.yaml")
    Trainer(listen, LpeTask(listen, data, tmp_path / "cache"), tmp_path / "1_listen").run()
    for name in ("1_listen.yaml", "2_perceive.yaml"):
        task = LpeTask(twin(name), data, tmp_path / "cache")
        told: list[str] = []
        encode = task.model.plain
        monkeypatch.setattr(
            task.model, "plain", lambda text, encode=encode, told=told: told.append(text) or encode(text)
        )
        for step in range(8):
            task.loss(task.batch(step), step)
        task.validate()
        assert len(told) > 30
        assert not any(SECRET in text or "Reply" in text for text in told)
        assert any("heard" in text.lower() for text in told)


def test_mistakes_are_named(twin: Callable[..., Recipe], data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="stage 2 needs the run of stage 1"):
        LpeTask(twin("2_perceive.yaml", start_from=""), data, tmp_path / "cache")
    write(data / "silent.jsonl", [Clip("a", data / "0.wav", "s0", None, duration_s=0.8)])
    with pytest.raises(DataError, match=r"no clip of silent\.jsonl has text"):
        LpeTask(twin("1_listen.yaml", clips=["silent.jsonl"]), data, tmp_path / "cache")


def test_batches_hold_about_as_much_speech(twin: Callable[..., Recipe], data: Path, tmp_path: Path) -> None:
    task = LpeTask(twin("1_listen.yaml", batch_s=4.0), data, tmp_path / "cache")
    for step in range(5):
        assert sum(c.duration_s for c in task.batch(step)) == pytest.approx(4.0, abs=0.81)
        assert task.batch(step) == task.batch(step)
    assert task.batch(0) != task.batch(1)
