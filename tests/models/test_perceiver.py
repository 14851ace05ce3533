"""The perceiver: padding and absent views change nothing they should not, and the records are well-formed."""

import pytest
import torch

from omni.audio.prosody import CHANNELS
from omni.config import PerceiverConfig
from omni.errors import ConfigError, InputError
from omni.models.emotion_views import hide, layer_statistics
from omni.models.functionals import count, functionals, moments, quantiles
from omni.models.perceiver import EmotionPerceiver, front_end, to_perception
from omni.turns import COORDINATES, EMOTIONS

SMALL = PerceiverConfig(width=16, vector=12, blocks=2, members=2, listener_layers=3, listener_width=8)


def clip(seed: int, frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    prosody = torch.rand(frames, len(CHANNELS), generator=draw)
    prosody[:, CHANNELS.index("voiced")] = (prosody[:, 3] > 0.4).float()
    return torch.randn(frames, 80, generator=draw), prosody


def listened(frames: list[int]) -> list[torch.Tensor]:
    """Layers of two frame rates, like the listener's."""
    draw = torch.Generator().manual_seed(9)
    longest = -(-max(frames) // 8) * 2
    return [torch.randn(len(frames), longest // step, 8, generator=draw) for step in (1, 2, 1)]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return EmotionPerceiver(SMALL).eval()


def test_batch_equals_singles(model):
    clips = [clip(1, 61), clip(2, 120), clip(3, 97)]
    mel, prosody = (torch.nn.utils.rnn.pad_sequence([c[k] for c in clips], batch_first=True) for k in (0, 1))
    together = model(mel, torch.tensor([61, 120, 97]), None, prosody)
    for place, (one_mel, one_prosody) in enumerate(clips):
        alone = model(one_mel[None], torch.tensor([len(one_mel)]), None, one_prosody[None])
        assert torch.allclose(together.logits[place], alone.logits[0], atol=1e-4)
        assert torch.allclose(together.vector[place], alone.vector[0], atol=1e-4)


def test_what_lies_beyond_a_clip_does_not_matter(model):
    mel, prosody = clip(1, 90)
    garbage_mel, garbage_prosody = mel.clone(), prosody.clone()
    garbage_mel[70:], garbage_prosody[70:] = 50.0, -3.0
    lengths = torch.tensor([70])
    clean = model(mel[None], lengths, None, prosody[None]).logits
    assert torch.allclose(clean, model(garbage_mel[None], lengths, None, garbage_prosody[None]).logits, atol=1e-4)


def test_the_level_of_the_mels_does_not_matter(model):
    mel, prosody = clip(1, 90)
    lengths = torch.tensor([90])
    before = model(mel[None], lengths, None, prosody[None]).logits
    assert torch.allclose(before, model(mel[None] + 2.5, lengths, None, prosody[None]).logits, atol=1e-4)


def test_every_view_can_be_absent_and_matters_when_present(model):
    mel, prosody = clip(1, 96)
    lengths = torch.tensor([96])
    layers = listened([96])
    outputs = [
        model(mel[None], lengths, given, heard).logits for given in (None, layers) for heard in (None, prosody[None])
    ]
    for i, first in enumerate(outputs):
        assert bool(first.isfinite().all())
        assert all(not torch.allclose(first, other) for other in outputs[i + 1 :])


def test_layers_beyond_a_shorter_clip_are_not_heard(model):
    layers = listened([96, 48])
    mel, prosody = (torch.stack([c, c]) for c in clip(1, 96))
    lengths = torch.tensor([96, 48])
    before = model(mel, lengths, layers, prosody).logits
    for layer in layers:
        layer[1, layer.shape[1] // 2 :] = 100.0
    assert torch.allclose(before, model(mel, lengths, layers, prosody).logits, atol=1e-4)


def test_vector_is_the_mean_of_what_the_heads_read(model):
    mel, prosody = clip(1, 96)
    out = model(mel[None], torch.tensor([96]), None, prosody[None])
    assert torch.allclose(model.heads(out.vector)[0], out.logits)
    assert torch.allclose(out.members.mean(1), out.logits, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 0.2])
def test_perceive_gives_a_whole_record_whatever_the_gain(model, scale):
    samples = torch.randn(16_000, generator=torch.Generator().manual_seed(4)) * torch.linspace(0.1, 1, 16_000)
    found = model.perceive(samples * scale)
    assert sum(found.probabilities.values()) == pytest.approx(1.0, abs=1e-5)
    assert tuple(found.probabilities) == EMOTIONS
    assert found.confidence == max(found.probabilities.values()) == found.probabilities[found.emotion]
    assert 0 <= found.intensity <= 1
    assert found.vector is not None
    assert found.vector.shape == (SMALL.vector,)
    assert found.probabilities == pytest.approx(model.perceive(samples * 0.05).probabilities, abs=0.02)


def test_perceive_takes_silence_and_refuses_what_is_too_short(model):
    assert model.perceive(torch.zeros(8000)).emotion in EMOTIONS
    with pytest.raises(InputError, match="400 samples"):
        model.perceive(torch.zeros(100))


def test_temperature_softens_confidence(model):
    samples = torch.randn(16_000, generator=torch.Generator().manual_seed(4))
    sharp = model.perceive(samples)
    model.temperature.fill_(4.0)
    soft = model.perceive(samples)
    assert soft.emotion == sharp.emotion
    assert soft.confidence < sharp.confidence


def test_valence_and_arousal_are_expectations():
    shares = torch.zeros(8)
    shares[EMOTIONS.index("sad")], shares[EMOTIONS.index("calm")] = 0.75, 0.25
    found = to_perception(shares, 0.4)
    for got, axis in ((found.valence, 0), (found.arousal, 1)):
        assert got == pytest.approx(0.75 * COORDINATES["sad"][axis] + 0.25 * COORDINATES["calm"][axis])


def test_front_end_cuts_silence_but_keeps_a_margin():
    sound = 0.1 * torch.randn(16_000, generator=torch.Generator().manual_seed(4))
    mel, prosody = front_end(torch.cat([torch.zeros(8000), sound, torch.zeros(24_000)]))
    assert len(mel) == len(prosody)
    assert 100 <= len(mel) <= 125


def test_hide_hides_a_bounded_part():
    torch.manual_seed(1)
    kept = (hide(torch.ones(16, 100, 80)) > 0).float().mean((1, 2))
    assert 0.35 < kept.min() < 1.0
    assert kept.max() <= 1.0


def test_moments_and_quantiles_match_plain_ones():
    x, keep = torch.randn(2, 30, 4), torch.rand(2, 30) > 0.3
    mean, deviation = moments(x, keep)
    got = quantiles(x, keep, (0.0, 0.3, 1.0))
    for b in range(2):
        rows = x[b][keep[b]]
        assert torch.allclose(mean[b], rows.mean(0), atol=1e-5)
        assert torch.allclose(deviation[b], rows.std(0, unbiased=False), atol=1e-4)
        assert torch.allclose(got[b], torch.quantile(rows, torch.tensor([0.0, 0.3, 1.0]), dim=0), atol=1e-5)


def test_functionals_have_the_declared_size_and_survive_silence():
    mel, prosody = clip(1, 50)
    assert functionals(mel[None], prosody[None], torch.tensor([50])).shape == (1, count(80))
    silent = functionals(torch.zeros(1, 9, 80), torch.zeros(1, 9, len(CHANNELS)), torch.tensor([9]))
    assert bool(silent.isfinite().all())


def test_a_model_without_any_sure_view_is_refused():
    with pytest.raises(ConfigError, match="use_trunk"):
        EmotionPerceiver(PerceiverConfig(use_trunk=False, use_prosody=False))


def test_layer_statistics_look_only_at_their_span():
    layers = listened([96])
    before = layer_statistics(layers, torch.tensor([[16, 64]]))
    for layer in layers:
        step = 96 // layer.shape[1]
        layer[:, : 16 // step], layer[:, 64 // step :] = 100.0, 100.0
    assert torch.allclose(before, layer_statistics(layers, torch.tensor([[16, 64]])))
    assert torch.allclose(before[0, 0, :8], layers[0][0, 4:16].mean(0), atol=1e-5)
