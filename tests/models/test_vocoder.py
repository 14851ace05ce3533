"""Vocoders: streaming equals whole, the untrained neural one stands in for WORLD, weights are checked."""

import numpy as np
import pytest
import torch

from omni.audio.world import Frames, resynthesise
from omni.config import VocoderConfig
from omni.errors import ModelError
from omni.models.vocoder import NeuralVocoder, WorldVocoder, envelope_bases, excitation, make_vocoder, mix_of

CONFIG = VocoderConfig(kind="neural", width=24, layers=3, feedforward=32, chunk_frames=37)


def fake_frames(count: int = 230, seed: int = 0) -> Frames:
    draw = np.random.default_rng(seed)
    envelope = (draw.normal(size=(count, 40)) / (2.0 + np.arange(40))).astype(np.float32)
    envelope[:, 0] -= 9.0
    voiced = (np.arange(count) // 40) % 2 == 0
    pitch = (180 + 30 * np.sin(np.arange(count) / 30)).astype(np.float32)
    return Frames(envelope, np.full((count, 1), -12.0, np.float32), pitch, voiced, clause_ends=(95, count))


@pytest.fixture(scope="module")
def neural() -> NeuralVocoder:
    torch.manual_seed(0)
    model = NeuralVocoder(CONFIG).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return model


@pytest.mark.parametrize("count", [37, 38, 111, 230])
def test_neural_stream_equals_whole(neural: NeuralVocoder, count: int) -> None:
    frames = fake_frames(count)
    whole, pieces = neural.synthesise(frames), list(neural.stream(frames))
    assert len(pieces) == -(-count // 37)
    assert len(whole) == count * 80
    assert np.abs(np.concatenate(pieces) - whole).max() < 1e-5


def test_neural_sound_waits_for_its_look_ahead_only(neural: NeuralVocoder) -> None:
    frames, changed = fake_frames(), fake_frames()
    changed.envelope[150:] += 1.0
    a, b = neural.synthesise(frames), neural.synthesise(changed)
    same = (150 - neural.look_ahead_frames) * 80
    assert np.array_equal(a[:same], b[:same])
    assert not np.array_equal(a[same : 151 * 80], b[same : 151 * 80])


def test_world_stream_equals_whole_and_cuts_at_clauses() -> None:
    frames, vocoder = fake_frames(), WorldVocoder()
    pieces = list(vocoder.stream(frames))
    assert [len(p) for p in pieces] == [95 * 80, 135 * 80]
    assert np.array_equal(np.concatenate(pieces), vocoder.synthesise(frames))
    assert len(vocoder.synthesise(frames.cut(0, 0))) == 0


def test_untrained_neural_vocoder_is_as_loud_as_world() -> None:
    frames = fake_frames()
    torch.manual_seed(0)
    made, reference = NeuralVocoder(CONFIG).eval().synthesise(frames), resynthesise(frames)
    assert 20 * np.log10(made.std() / reference.std()) == pytest.approx(0.0, abs=2.5)


def test_excitation_has_a_pulse_a_period_and_none_where_unvoiced() -> None:
    frames = fake_frames(80)
    pulses, hiss = excitation(frames)
    assert pulses[41 * 80 :].any() == 0
    heard = 40 * 80
    expected = float(frames.pitch_hz[:40].mean()) * heard / 16_000
    power = float((pulses[:heard] ** 2).sum())
    assert 0.4 * heard < power < 1.2 * heard
    assert np.count_nonzero(pulses[:heard]) == pytest.approx(2 * expected, abs=3)
    assert hiss.std() == pytest.approx(1.0, abs=0.05)
    assert np.array_equal(hiss, excitation(frames)[1])


def test_bases_agree_with_world() -> None:
    import pyworld

    coded = fake_frames(5).envelope.astype(np.float64)
    wanted = np.log(pyworld.decode_spectral_envelope(coded, 16_000, 1024))[:, ::2]
    power, _ = envelope_bases(40, 257)
    assert (torch.from_numpy(coded).float() @ power).numpy() == pytest.approx(wanted, abs=1e-3)
    noise = pyworld.decode_aperiodicity(np.array([[-14.0]]), 16_000, 1024)[0, ::2]
    assert mix_of(torch.tensor([[-14.0]]), 257)[0].numpy() == pytest.approx(noise**2, rel=0.02, abs=1e-5)


def test_make_vocoder_chooses_and_checks() -> None:
    assert isinstance(make_vocoder(VocoderConfig()), WorldVocoder)
    weights = {k: v.half() for k, v in NeuralVocoder(CONFIG).state_dict().items()}
    assert isinstance(make_vocoder(CONFIG, weights), NeuralVocoder)
    with pytest.raises(ModelError, match="needs weights"):
        make_vocoder(CONFIG)
    with pytest.raises(ModelError, match="choose 'world' or 'neural'"):
        make_vocoder(VocoderConfig(kind="tape"))
    del weights["leave.weight"]
    with pytest.raises(ModelError, match="do not fit"):
        make_vocoder(CONFIG, weights)
