"""Voice and vocoder training: every recipe's debug twin, resuming, spans, deterministic batches, fine-tuning."""

import itertools
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from omni.audio.alignment import SILENCE, Segment
from omni.config import DecoderConfig, VocoderConfig, load
from omni.data.manifest import Clip, read, write
from omni.errors import ConfigError, DataError
from omni.models.decoder import ExpressiveDecoder
from omni.models.vocoder import make_vocoder
from omni.phones import VOICE_ID
from omni.spoken import units
from omni.train.loop import Trainer
from omni.train.recipe import load_recipe
from omni.train.vocoding import VocoderTask
from omni.train.voice import VoiceTask
from omni.train.voice_data import analyse_clip, cut_spans, pauses

RECIPES = Path(__file__).parents[2] / "recipes"
TEXTS = ("we walked along the river", "nobody had seen the old dog", "the rain began in the evening")


def buzz(seconds: float, pitch_hz: float) -> np.ndarray:
    times = np.arange(int(16_000 * seconds)) / 16_000
    pitch = pitch_hz * (1 + 0.1 * np.sin(5 * times))
    sound = sum(np.sin(k * 2 * np.pi * np.cumsum(pitch) / 16_000) / k for k in range(1, 12))
    return (0.1 * sound).astype(np.float32)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the layouts that the recipes name: speakers 2416 and `me`, three clips each."""
    folder = tmp_path_factory.mktemp("data")
    for manifest, speaker, pitch in (("librispeech/train.jsonl", "2416", 180.0), ("train.jsonl", "me", 120.0)):
        clips = []
        for index, text in enumerate(TEXTS):
            audio = folder / Path(manifest).parent / f"{speaker}-{index}.flac"
            audio.parent.mkdir(exist_ok=True)
            soundfile.write(audio, buzz(2.5, pitch + 10 * index), 16_000)
            clips.append(Clip(f"{speaker}-{index}", audio, speaker, text))
        write(folder / manifest, clips)
    return folder


@pytest.mark.parametrize(
    ("recipe", "task"),
    [
        ("mini/0_voice.yaml", VoiceTask),
        ("mini/2_voice.yaml", VoiceTask),
        ("mini/0_vocoder.yaml", VocoderTask),
        ("finetune_voice.yaml", VoiceTask),
    ],
)
def test_debug_twin_trains_exports_and_resumes(recipe: str, task: type, data: Path, tmp_path: Path) -> None:
    load_recipe(RECIPES / recipe)
    twin = load_recipe(RECIPES / recipe, debug=True)
    result = Trainer(twin, task(twin, data, data / "cache"), tmp_path).run()
    assert result.step == 2
    assert np.isfinite(result.losses).all()
    assert list((tmp_path / "export").glob("*.safetensors"))
    longer = replace(twin, steps=3)
    resumed = Trainer(longer, task(longer, data, data / "cache"), tmp_path).run()
    straight = Trainer(longer, task(longer, data, data / "cache"), tmp_path / "straight").run()
    assert resumed.losses == pytest.approx(straight.losses[2:], rel=1e-5)


def test_exported_voice_speaks_and_can_be_started_from(data: Path, tmp_path: Path) -> None:
    twin = load_recipe(RECIPES / "mini/0_voice.yaml", debug=True)
    task = VoiceTask(twin, data, data / "cache")
    task.export(tmp_path)
    config = load(DecoderConfig, tmp_path / "voice.yaml")
    decoder = ExpressiveDecoder(config)
    decoder.load_state_dict({k: v.float() for k, v in load_file(tmp_path / "voice.safetensors").items()})
    sound = make_vocoder(VocoderConfig()).synthesise(decoder.eval().speak(units("Good evening.")))
    assert np.isfinite(sound).all()
    assert len(sound) > 1600
    own = load_recipe(RECIPES / "finetune_voice.yaml", debug=True)
    own = replace(own, data={**own.data, "start_from": str(tmp_path / "voice.safetensors")})
    tuned = VoiceTask(own, data, data / "cache").model.decoder
    assert torch.allclose(tuned.output_head.weight, decoder.output_head.weight)
    # the new speaker's pitch is his own
    assert float(tuned.pitch_mean) == pytest.approx(np.log(130.0), abs=0.1)


def test_states_of_a_language_model_enter_training(data: Path) -> None:
    twin = load_recipe(RECIPES / "mini/2_voice.yaml", debug=True)
    asked: list[str] = []

    def states(words: list[str]) -> tuple[torch.Tensor, list[int]]:
        asked.append(" ".join(words))
        return torch.randn(len(words) + 1, DecoderConfig().llm_width), [i + 1 for i in range(len(words))]

    task = VoiceTask(twin, data, data / "cache", states)
    loss, _ = task.loss(task.batch(0), 0)
    loss.backward()
    assert set(asked) <= set(TEXTS)
    assert task.model.decoder.gate.project.weight.grad.abs().sum() > 0


def test_the_gate_alone_can_be_trained(data: Path, tmp_path: Path) -> None:
    twin = load_recipe(RECIPES / "mini/2_voice.yaml", debug=True)
    twin = replace(twin, data={**twin.data, "only": ["gate"], "adversary_weight": 0.0})

    def states(words: list[str]) -> tuple[torch.Tensor, list[int]]:
        return torch.randn(len(words), DecoderConfig().llm_width), list(range(len(words)))

    task = VoiceTask(twin, data, data / "cache", states)
    before = {k: v.clone() for k, v in task.model.decoder.named_parameters()}
    Trainer(twin, task, tmp_path).run()
    changed = {k for k, v in task.model.decoder.named_parameters() if not torch.equal(v, before[k])}
    assert changed == {k for k in before if k.startswith("gate.")}
    wrong = replace(twin, data={**twin.data, "only": ["door"]})
    with pytest.raises(ConfigError, match=r"data\.only: door; the voice's parts are .*gate"):
        VoiceTask(wrong, data, data / "cache", states)


def test_batches_are_a_function_of_the_step(data: Path) -> None:
    twin = load_recipe(RECIPES / "mini/0_voice.yaml", debug=True)
    one, two = (VoiceTask(twin, data, data / "cache") for _ in range(2))
    a, b, c = one.batch(5), two.batch(5), two.batch(6)
    assert torch.equal(a.envelope, b.envelope)
    assert torch.equal(a.style, b.style)
    assert a.envelope.shape != c.envelope.shape or not torch.equal(a.envelope, c.envelope)
    ratio = one.config.frames_per_step
    assert a.envelope.shape[1] == a.step_mask.shape[1] * ratio == a.at.shape[1] * ratio


def test_spans_keep_units_and_frames_together(data: Path) -> None:
    clip = read(data / "train.jsonl")[0]
    recording = analyse_clip(clip, data / "cache" / "spans", 40, "uniform", False)
    assert int(recording.lengths.sum()) * 2 == len(recording.pitch_hz)
    span = cut_spans(recording, random.Random(1), 1000)
    assert len(span.units) == len(span.lengths) == len(span.features)
    assert span.start + span.lengths.sum() <= recording.lengths.sum()
    assert span.units[0] == VOICE_ID["sil"]
    assert span.units[-1] == VOICE_ID["."]


def test_pauses_are_named_by_their_length() -> None:
    lengths = ((SILENCE, 20), ("AA1", 8), (SILENCE, 3), ("B", 5), (SILENCE, 15), ("AA1", 9), (SILENCE, 50), ("B", 5))
    starts = [0, *itertools.accumulate(n for _, n in lengths)]
    segments = [Segment(p, s, n, -1 if p == SILENCE else 0) for (p, n), s in zip(lengths, starts)]
    names, words, kept = pauses(segments)
    assert names == ["sil", "AA1", "B", ",", "AA1", ".", "B"]
    assert kept == [20, 11, 5, 15, 9, 50, 5]
    assert words == [-1, 0, 0, -1, 0, -1, 0]


def test_missing_speaker_or_weights_are_named(data: Path) -> None:
    twin = load_recipe(RECIPES / "mini/0_voice.yaml", debug=True)
    with pytest.raises(DataError, match="nobody"):
        VoiceTask(replace(twin, data={**twin.data, "voice": "nobody"}), data, data / "cache")
    with pytest.raises(DataError, match="earlier recipe"):
        VoiceTask(replace(twin, data={**twin.data, "start_from": "absent"}), data, data / "cache")
