"""Emotional corpora: public layouts and manifests give the same clips; labels say what they do not know."""

import json

import numpy as np
import pytest
import soundfile
import torch

from omni.audio.prosody import CHANNELS
from omni.data.corpora import indian_emospeech, ravdess
from omni.data.emotional import EmotionFeatures, disguise, gather, label, load, sets_of
from omni.data.manifest import Clip
from omni.errors import DataError
from omni.turns import EMOTIONS


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


def test_ravdess_public_layout(tmp_path):
    for name in ("03-01-07-02-01-01-04", "03-01-01-01-02-02-04", "03-02-01-01-02-02-04", "01-01-03-01-01-01-04", "x"):
        touch(tmp_path / "Actor_04" / f"{name}.wav")
    plain, disgusted = ravdess.read(tmp_path)  # songs, video and strange names are left out
    assert (plain.emotion, plain.intensity, plain.speaker) == ("neutral", "normal", "actor-04")
    assert (disgusted.emotion, disgusted.intensity) == ("disgusted", "strong")
    assert disgusted.text == "KIDS ARE TALKING BY THE DOOR"


def test_ravdess_manifest_speaks_of_disgusted(tmp_path):
    row = {"id": "a", "audio": "a.wav", "speaker": "actor-01", "emotion": "disgust", "intensity": "normal"}
    (tmp_path / "all.jsonl").write_text(json.dumps(row))
    assert ravdess.read(tmp_path)[0].emotion == "disgusted"


def test_indian_emospeech_public_layout(tmp_path):
    for name in (
        "help-safe-Angry-1562907046662-aa",
        "unknown-safe-calm-15-bb",
        "background-safe-None-20190701193438-cc",
    ):
        touch(tmp_path / "market" / f"{name}.wav")
    touch(tmp_path / "market" / f"stop-safe-happy-9-{indian_emospeech.UNKNOWN_SPEAKER}.wav")
    angry, calm = indian_emospeech.read(tmp_path)
    assert (angry.emotion, angry.text, angry.speaker, angry.extra["place"]) == ("angry", "HELP", "user-aa", "market")
    assert (calm.emotion, calm.text) == ("calm", None)


@pytest.mark.parametrize("corpus", [ravdess, indian_emospeech])
def test_an_empty_folder_is_named(corpus, tmp_path):
    with pytest.raises(DataError, match=str(tmp_path)):
        corpus.read(tmp_path)


def test_labels_say_what_they_do_not_know(tmp_path):
    items = [
        label(Clip("a", tmp_path, "s", emotion="sad", intensity="strong"), "ravdess"),
        label(Clip("b", tmp_path, "s", emotion="calm"), "indian_emospeech"),
        label(Clip("c", tmp_path, "s"), "plain"),
    ]
    targets, supports, strengths = sets_of(items)
    assert targets.sum(1).tolist() == [1, 1, 2]
    assert supports.sum(1).tolist() == [8, 4, 8]
    assert not bool(supports[1, EMOTIONS.index("sad")])
    assert strengths[0] == 1.0
    assert bool(strengths[1:].isnan().all())
    with pytest.raises(DataError, match="jolly"):
        label(Clip("d", tmp_path, "s", emotion="jolly"), "own")


def test_gather_refuses_an_unknown_kind(tmp_path):
    with pytest.raises(DataError, match="ravdess"):
        gather(tmp_path, {"crema": "x"})


def test_disguise_is_a_function_of_its_seed(tmp_path):
    for kind in ("rir", "noise"):
        (tmp_path / kind).mkdir()
        sound = np.random.default_rng(1).standard_normal(4000).astype(np.float32) * 0.1
        soundfile.write(tmp_path / kind / "a.flac", sound, 16_000)
    clip = np.sin(np.arange(8000) / 9).astype(np.float32) * 0.2
    changed = [disguise(clip, seed, tmp_path) for seed in range(12)]
    assert all(np.array_equal(c, disguise(clip, seed, tmp_path)) for seed, c in enumerate(changed))
    assert len({len(c) for c in changed}) > 3
    assert all(np.isfinite(c).all() and 0.84 < 8000 / len(c) < 1.2 for c in changed)


def test_features_are_cached_and_read_back(tmp_path):
    time = np.arange(16_000) / 16_000
    soundfile.write(tmp_path / "a.wav", 0.1 * np.sin(2 * np.pi * 150 * time), 16_000)
    soundfile.write(tmp_path / "b.wav", 0.1 * np.sin(2 * np.pi * 300 * np.arange(44_100) / 44_100), 44_100)
    clips = [Clip(n, tmp_path / f"{n}.wav", "s") for n in "ab"]
    first = EmotionFeatures(clips, tmp_path / "cache", 0, None, 5.0)
    again = EmotionFeatures(clips, tmp_path / "cache", 0, None, 5.0)
    for index, octaves in ((0, np.log2(150 / 180)), (1, np.log2(300 / 180))):
        mel, prosody = first[index]
        assert mel.shape == (len(prosody), 80)
        assert prosody.shape[1] == len(CHANNELS)
        assert prosody[:, 0].median() == pytest.approx(octaves, abs=0.02)
        assert torch.equal(mel, again[index][0])


def test_load_takes_a_piece_of_a_long_clip(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.linspace(-0.5, 0.5, 48_000), 16_000)
    clip = Clip("a", tmp_path / "a.wav", "s")
    pieces = [load(clip, 1.0, seed) for seed in (1, 1, 2)]
    assert all(len(p) == 16_000 for p in pieces)
    assert np.array_equal(pieces[0], pieces[1])
    assert not np.array_equal(pieces[0], pieces[2])
