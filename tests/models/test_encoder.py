"""The listener's shapes, and that padding changes nothing: a batch equals its members alone."""

from __future__ import annotations

import pytest
import torch

from omni.config import AudioConfig, ListenerConfig
from omni.models.encoder import SpeechEncoder
from omni.phones import UNITS

CONFIG = ListenerConfig(width=32, feedforward=48, heads=4, outer_layers=1, inner_layers=2, last_layers=1)


@pytest.fixture(scope="module")
def encoder() -> SpeechEncoder:
    torch.manual_seed(0)
    return SpeechEncoder(CONFIG, AudioConfig()).eval()


def mels(*frames: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [3 * torch.randn(n, AudioConfig().mels, generator=generator) - 5 for n in frames]


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 7, 8, 9, 31, 100, 101])
def test_shapes_for_any_length(encoder: SpeechEncoder, frames: int) -> None:
    with torch.inference_mode():
        out = encoder(torch.stack(mels(frames)), torch.tensor([frames]))
    states = -(-frames // 8) * 2
    assert out.logits.shape == out.early_logits.shape == (1, states, len(UNITS))
    assert out.lengths.tolist() == [-(-frames // 4)]
    assert out.lengths[0] <= states
    widths = [layer.shape[1] for layer in out.layers]
    assert widths == [states, states // 2, states // 2, states]
    assert torch.isfinite(out.logits).all()


def test_batch_equals_singles(encoder: SpeechEncoder) -> None:
    lengths = [97, 40, 61, 5, 8, 1]
    single = mels(*lengths)
    with torch.inference_mode():
        batch = encoder(torch.nn.utils.rnn.pad_sequence(single, batch_first=True), torch.tensor(lengths))
        for index, mel in enumerate(single):
            alone = encoder(mel[None], torch.tensor([len(mel)]))
            kept = int(alone.lengths[0])
            assert kept == int(batch.lengths[index])
            for whole, part in (
                (batch.logits, alone.logits),
                (batch.early_logits, alone.early_logits),
                (batch.states, alone.states),
                (batch.layers[1][:, : (kept + 1) // 2], alone.layers[1][:, : (kept + 1) // 2]),
            ):
                size = min(kept, part.shape[1])
                torch.testing.assert_close(whole[index, :size], part[0, :size], atol=2e-4, rtol=1e-3)


def test_what_lies_in_the_padding_does_not_matter(encoder: SpeechEncoder) -> None:
    padded = torch.nn.utils.rnn.pad_sequence(mels(50, 30), batch_first=True)
    lengths = torch.tensor([50, 30])
    dirty = padded.clone()
    dirty[1, 30:] = 7.0
    with torch.inference_mode():
        clean, other = encoder(padded, lengths), encoder(dirty, lengths)
    torch.testing.assert_close(clean.logits[1, :8], other.logits[1, :8], atol=1e-5, rtol=1e-4)


def test_loudness_and_channel_do_not_matter(encoder: SpeechEncoder) -> None:
    mel = torch.stack(mels(64))
    tilt = torch.linspace(-2, 2, mel.shape[2])
    with torch.inference_mode():
        one, other = encoder(mel, torch.tensor([64])), encoder(mel + tilt + 1.5, torch.tensor([64]))
    torch.testing.assert_close(one.logits, other.logits, atol=1e-3, rtol=1e-3)


def test_every_layer_learns(encoder: SpeechEncoder) -> None:
    encoder.zero_grad()
    out = encoder(torch.stack(mels(48, 48)), torch.tensor([48, 40]))
    (out.logits.square().mean() + out.early_logits.square().mean()).backward()
    still = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not still
    encoder.zero_grad()
