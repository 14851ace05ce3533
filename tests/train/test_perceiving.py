"""The perceiver's stage: the loss, the measures, splits without shared speakers, and the debug twins of its recipes."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from omni.audio.features import log_mel
from omni.audio.io import load_clip
from omni.config import AudioConfig, ListenerConfig, PerceiverConfig, build, dump
from omni.config import load as load_config
from omni.errors import DataError
from omni.models.encoder import SpeechEncoder
from omni.models.perceiver import EmotionPerceiver
from omni.models.words import WordSentiment
from omni.train.loop import Trainer
from omni.train.perceiving import (
    PerceiverTask,
    average_recall,
    calibration_error,
    fit_temperature,
    partial_loss,
)
from omni.train.recipe import load_recipe
from omni.train.sentiment import SentimentTask, polarity
from omni.turns import EMOTIONS
from tests.tiny import REPOSITORY

RECIPES = Path(__file__).parents[2] / "recipes"


def write_clips(folder: Path, name: str, rows: list[dict]) -> None:
    """A manifest of half-second buzzes, one pitch an emotion."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(rows):
        pitch = 100 + 25 * EMOTIONS.index(row.get("emotion", "neutral"))
        time = np.arange(8000) / 16_000
        sound = 0.1 * sum(np.sin(2 * np.pi * k * pitch * time) / k for k in range(1, 6))
        soundfile.write(folder / f"{name}-{number}.wav", sound, 16_000)
    lines = [json.dumps({"id": f"{name}-{n}", "audio": f"{name}-{n}.wav", **row}) for n, row in enumerate(rows)]
    (folder / f"{name}.jsonl").write_text("\n".join(lines))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    acted = [
        {"speaker": f"actor-{a:02d}", "emotion": e, "intensity": "strong"} for a in (1, 13, 16) for e in EMOTIONS[::3]
    ]
    write_clips(root / "ravdess", "all", acted)
    real = [{"speaker": f"user-{u:03d}", "emotion": e} for u in (2, 59, 61) for e in ("calm", "happy")]
    write_clips(root / "indian_emospeech", "subset", real)
    write_clips(root / "librispeech", "train", [{"speaker": "19"}, {"speaker": "32"}])
    write_clips(root, "manifest", [{"speaker": "me", "emotion": e} for e in EMOTIONS])
    for kind in ("noise", "rir"):
        (root / "noise" / kind).mkdir(parents=True)
        sound = np.random.default_rng(1).standard_normal(4000).astype(np.float32) * 0.1
        soundfile.write(root / "noise" / kind / "a.flac", sound, 16_000)
    return root


@pytest.fixture(scope="module")
def task(data, tmp_path_factory):
    recipe = load_recipe(RECIPES / "mini" / "0_perceiver.yaml", debug=True)
    return PerceiverTask(recipe, data, tmp_path_factory.mktemp("cache"))


def test_no_speaker_is_in_two_splits_and_reserved_ones_in_none(task):
    train, held = ({i.clip.speaker for i in items} for items in (task.train_items, task.held))
    assert train == {"actor-01", "user-002", "19"}
    assert held == {"actor-13", "user-059", "32"}


def test_batches_depend_on_the_step_alone(task):
    first, again, other = task.batch(3), task.batch(3), task.batch(4)
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[3], other[3])


@pytest.mark.parametrize("name", ["mini/0_perceiver.yaml", "mini/0_perceiver_layers.yaml", "finetune_perceiver.yaml"])
def test_debug_twin_trains_and_its_export_loads(name, data, tmp_path):
    recipe = load_recipe(RECIPES / name, debug=True)
    task = PerceiverTask(recipe, data, tmp_path / "cache")
    result = Trainer(recipe, task, tmp_path / "run").run()
    assert result.step == 2
    assert all(np.isfinite(result.losses))
    export = tmp_path / "run" / "export"
    model = EmotionPerceiver(load_config(PerceiverConfig, export / "perceiver.yaml"))
    weights = load_file(export / "perceiver.safetensors")
    assert all(w.dtype == torch.float16 for w in weights.values() if w.is_floating_point())
    model.load_state_dict({k: v.float() for k, v in weights.items()})
    assert model.eval().perceive(torch.randn(8000)).emotion in EMOTIONS
    assert json.loads((export / "scores.json").read_text())["scores"]


def test_fine_tuning_starts_from_given_weights(data, tmp_path):
    recipe = load_recipe(RECIPES / "finetune_perceiver.yaml", debug=True)
    task = PerceiverTask(recipe, data, tmp_path / "cache")
    task.export(data)
    recipe.data["start"] = "perceiver.safetensors"
    again = PerceiverTask(recipe, data, tmp_path / "cache")
    assert torch.allclose(again.model.emotion_head.weight, task.model.emotion_head.weight, atol=1e-3)


def test_resumed_run_has_the_identical_next_loss(data, tmp_path):
    recipe = load_recipe(RECIPES / "finetune_perceiver.yaml", debug=True)

    def trainer(run: str) -> Trainer:
        return Trainer(recipe, PerceiverTask(recipe, data, tmp_path / "cache"), tmp_path / run)

    whole = trainer("whole").run().losses
    cut = trainer("cut")
    cut.recipe = load_recipe(RECIPES / "finetune_perceiver.yaml", debug=True)
    object.__setattr__(cut.recipe, "steps", 1)
    first = cut.run().losses
    assert first + trainer("cut").run().losses == whole


def test_with_a_listener_the_layers_are_read_from_the_cache_and_in_use_alike(data, tmp_path):
    config = ListenerConfig(width=16, feedforward=16, heads=2, outer_layers=1, inner_layers=1, last_layers=1)
    torch.manual_seed(3)
    listener = SpeechEncoder(config).eval()
    (tmp_path / "listener").mkdir()
    save_file(listener.state_dict(), tmp_path / "listener" / "listener.safetensors")
    (tmp_path / "listener" / "listener.yaml").write_text(dump(config))
    recipe = load_recipe(RECIPES / "mini" / "0_perceiver.yaml", debug=True)
    recipe.model.update(use_layers=True, listener_layers=3, listener_width=16, mixes=2)
    recipe.data["listener"] = "listener"
    task = PerceiverTask(recipe, data, tmp_path / "cache")
    assert np.isfinite(Trainer(recipe, task, tmp_path / "run").run().losses).all()
    logits, _ = task.held_out_outputs()
    samples = load_clip(task.held[0].clip.audio)
    mel = log_mel(torch.from_numpy(samples))[None]
    layers = listener(mel, torch.tensor([mel.shape[1]])).layers
    seen = task.model.eval().perceive(samples, layers)
    wanted = (logits[0] / task.model.temperature).softmax(-1)
    assert list(seen.probabilities.values()) == pytest.approx(wanted.tolist(), abs=0.02)
    without = task.model.perceive(samples)
    assert list(without.probabilities.values()) != pytest.approx(wanted.tolist(), abs=1e-4)
    recipe.data["listener"] = None
    with pytest.raises(DataError, match=r"data\.listener"):
        PerceiverTask(recipe, data, tmp_path / "cache")


def test_partial_loss_is_cross_entropy_where_all_is_known():
    logits = torch.randn(5, 8)
    truth = torch.tensor([0, 3, 7, 2, 2])
    targets, supports = torch.nn.functional.one_hot(truth, 8).bool(), torch.ones(5, 8, dtype=torch.bool)
    wanted = torch.nn.functional.cross_entropy(logits, truth, label_smoothing=0.1, reduction="none")
    assert torch.allclose(partial_loss(logits, targets, supports, 0.1), wanted, atol=1e-5)


def test_partial_loss_ignores_classes_outside_the_support():
    logits = torch.randn(1, 8, requires_grad=True)
    supports = torch.tensor([[False, True, True, False, True, True, False, False]])
    targets = torch.tensor([[False, True, False, False, False, False, False, False]])
    partial_loss(logits, targets, supports, 0.1).sum().backward()
    assert not bool(logits.grad[~supports].any())
    either = torch.tensor([[True, True, False, False, False, False, False, False]])
    sure = torch.tensor([[9.0, 9.0, 0, 0, 0, 0, 0, 0]])
    assert float(partial_loss(sure, either, torch.ones_like(either), 0.0)) < 0.01


def test_measures():
    predicted, truth = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 0, 0])
    assert average_recall(predicted, truth) == 0.75
    assert average_recall(torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 0, 1])) == 0.5
    sure = torch.tensor([[1.0, 0.0]] * 4)
    assert calibration_error(sure, torch.tensor([0, 0, 0, 1])) == pytest.approx(0.25)


def test_temperature_is_found():
    draw = torch.Generator().manual_seed(1)
    logits = torch.randn(4000, 8, generator=draw)
    truth = torch.multinomial(logits.softmax(-1), 1, generator=draw)[:, 0]
    assert fit_temperature(3 * logits, truth) == pytest.approx(3.0, rel=0.12)


def test_a_missing_share_is_named(task, data, tmp_path):
    recipe = load_recipe(RECIPES / "mini" / "0_perceiver.yaml", debug=True)
    recipe.data["shares"] = {"ravdess": 1.0}
    with pytest.raises(DataError, match="no share for"):
        PerceiverTask(recipe, data, tmp_path)


def test_words_debug_twin(tmp_path):
    (tmp_path / "text").mkdir()
    rows = [{"text": "so good", "emotions": ["joy"]}, {"text": "so bad", "emotions": ["anger"]}]
    for part in ("train", "dev"):
        import gzip

        with gzip.open(tmp_path / "text" / f"goemotions_{part}.jsonl.gz", "wt") as file:
            file.write("\n".join(json.dumps(r) for r in rows))
    recipe = load_recipe(RECIPES / "mini" / "0_sentiment.yaml", debug=True)
    Trainer(recipe, SentimentTask(recipe, tmp_path, tmp_path), tmp_path / "run").run()
    learnt = WordSentiment.load(tmp_path / "run" / "export" / "sentiment.safetensors")
    assert learnt.valence("good") > learnt.valence("bad")


def test_polarity_of_labels():
    assert [polarity(e) for e in (["joy"], ["anger", "fear"], ["neutral"], ["joy", "anger"])] == [2, 0, 1, None]


def test_the_shipped_weights_can_be_fine_tuned_without_the_listeners_layers() -> None:
    """The recipe for users starts from weights that know the listener's layers; its model does without."""
    recipe = load_recipe(REPOSITORY / "recipes" / "finetune_perceiver.yaml")
    task = object.__new__(PerceiverTask)
    task.model = EmotionPerceiver(build(PerceiverConfig, recipe.model, "model"), AudioConfig())
    shipped = load_file(REPOSITORY / "checkpoints" / "omni-mini" / "perceiver.safetensors")
    task._start_from(shipped)
    for name, weight in task.model.state_dict().items():
        torch.testing.assert_close(weight.float(), shipped[name].float())
    lacking = {k: v for k, v in shipped.items() if k != "usual"}
    with pytest.raises(DataError, match="another perceiver"):
        task._start_from(lacking)
