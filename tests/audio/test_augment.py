"""Augmentation: what it promises about level, length, time and randomness."""

import pytest
import torch

from omni.audio.augment import (
    AugmentConfig,
    Augmenter,
    MaskConfig,
    add_noise,
    change_speed,
    coloured_noise,
    compand,
    drop_chunks,
    gain,
    limit_band,
    mask_mels,
    reverberate,
    room_response,
    stretch_to,
)

COUNT = 16_000


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def tone(hz=440.0, count=COUNT):
    return 0.3 * torch.sin(2 * torch.pi * hz * torch.arange(count) / 16_000)


def rms(x):
    return x.square().mean().sqrt()


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 10.0, 30.0])
def test_noise_is_at_the_ratio_asked_for(snr_db):
    clean, noise = tone(), coloured_noise(5_000, 1.0, seeded())
    noisy = add_noise(clean, noise, snr_db, seeded(1))
    share = (noisy @ clean) / (clean @ clean)  # of the clean sound in the mixture; the noise is nearly orthogonal
    measured = 20 * torch.log10(rms(share * clean) / rms(noisy - share * clean))
    assert abs(measured - snr_db) < 0.6


def test_noise_is_repeated_and_shifted():
    noise = torch.arange(10.0)
    stretch = stretch_to(noise, 25, seeded())
    assert len(stretch) == 25
    assert torch.equal(stretch[:10], stretch[10:20])
    assert sorted(stretch[:10].tolist()) == noise.tolist()


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
def test_coloured_noise_falls_as_it_should(slope):
    power = torch.fft.rfft(coloured_noise(2**16, slope, seeded())).abs().square()
    low, high = power[500:1000].mean(), power[8000:16000].mean()
    assert abs(torch.log2(low / high) / 4 - slope) < 0.15  # four octaves apart


def test_the_room_keeps_the_time_and_the_level():
    clicks = torch.zeros(COUNT)
    clicks[2000::4000] = 1.0
    heard = reverberate(clicks, room_response(0.4, seeded()))
    assert len(heard) == COUNT
    assert set(range(2000, COUNT, 4000)) == set(heard.topk(4).indices.tolist())
    assert torch.isclose(heard.abs().mean(), clicks.abs().mean(), rtol=1e-3)
    assert rms(heard[2400:4000]) > 0


def test_reverberation_time():
    tail = room_response(0.5, seeded())
    early, late = rms(tail[800:1600]), rms(tail[-800:])
    decay_db = 20 * torch.log10(early / late)
    assert 45 < decay_db < 57  # 60 dB over 8000 samples: 0.0075 dB each, 6800 samples apart


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.1, 1.25])
def test_speed_changes_length_and_pitch(factor):
    quick = change_speed(tone(400.0), factor)
    assert abs(len(quick) - COUNT / factor) <= 1
    peak = torch.fft.rfft(quick, n=16_000).abs().argmax()
    assert abs(peak - 400 * factor) <= 1


def test_a_speed_beyond_reason_is_refused():
    with pytest.raises(ValueError, match=r"5\.0 is outside 0\.5 to 2\.0"):
        change_speed(tone(), 5.0)


def test_the_band_is_limited():
    low, mid, high = (rms(limit_band(tone(hz), 300, 3400)) / rms(tone(hz)) for hz in (60.0, 1000.0, 7000.0))
    assert mid > 0.9
    assert low < 0.1
    assert high < 0.1


def test_companding_is_coarse_but_close():
    coded = compand(tone())
    assert len(coded.unique()) <= 256
    assert rms(coded - tone()) / rms(tone()) < 0.03


def test_gain_clips():
    assert gain(tone(), 40.0).abs().max() == 1.0
    assert torch.isclose(rms(gain(tone(), -6.0)), rms(tone()) * 10 ** (-0.3))


def test_dropped_chunks_are_silent():
    sound = torch.ones(COUNT)
    dropped = drop_chunks(sound, seeded())
    assert 160 <= int((dropped == 0).sum()) <= 3 * 960
    assert torch.equal(drop_chunks(sound[:100], seeded()), sound[:100])


ALWAYS = AugmentConfig(speed_chance=1, reverberation_chance=1, noise_chance=1, band_chance=1, drop_chance=1)


@pytest.mark.parametrize("count", [1_600, 16_001])
def test_the_chain_is_finite_bounded_and_reproducible(count):
    augment = Augmenter(ALWAYS, noises=[torch.randn(3000, generator=seeded())], rooms=[room_response(0.2, seeded())])
    state = torch.random.get_rng_state()
    first, again, other = (augment(tone(count=count), seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state)  # the global generator is left alone
    assert torch.equal(first, again)
    assert not (first.shape == other.shape and torch.equal(first, other))
    assert torch.isfinite(first).all()
    assert first.abs().max() <= 1.0
    assert abs(len(first) / count - 1) < 0.13


def test_the_chain_does_not_depend_on_the_global_generator():
    augment = Augmenter(ALWAYS)
    torch.manual_seed(1)
    first = augment(tone(), seeded(3))
    torch.manual_seed(2)
    assert torch.equal(first, augment(tone(), seeded(3)))


def test_silence_stays_finite():
    for seed in range(5):
        assert torch.isfinite(Augmenter(ALWAYS)(torch.zeros(8000), seeded(seed))).all()


def test_masks_stay_inside_each_clip():
    mels, lengths = torch.randn(3, 200, 80, generator=seeded()), torch.tensor([200, 120, 1])
    before = mels.clone()
    masked = mask_mels(mels, lengths, seeded(1), MaskConfig(time_masks=5, widest_time_share=0.3))
    assert torch.equal(mels, before)
    changed = masked != mels
    assert changed[0].any()
    for clip, length in enumerate(lengths):
        assert not changed[clip, length:].any()
        mean = mels[clip, :length].mean(0).expand_as(mels[clip])
        assert torch.allclose(masked[clip][changed[clip]], mean[changed[clip]], atol=1e-5)


def test_masks_are_spans_of_whole_rows_and_columns_no_wider_than_asked():
    mels, lengths = torch.randn(16, 300, 80, generator=seeded()), torch.full((16,), 300)
    config = MaskConfig(time_masks=1, widest_time_share=0.1, bin_masks=1, widest_bins=8)
    changed = mask_mels(mels, lengths, seeded(2), config) != mels
    rows, columns = changed.all(dim=2), changed.all(dim=1)
    assert torch.equal(changed, rows[:, :, None] | columns[:, None, :])
    for spans, widest in ((rows, 30), (columns, 8)):
        assert int(spans.sum(dim=1).max()) <= widest
        edges = (spans[:, 1:].int() - spans[:, :-1].int()).abs().sum(dim=1)
        assert int(edges.max()) <= 2  # one span, not scattered cells
        assert len(spans.sum(dim=1).unique()) > 3  # widths are drawn


def test_masks_follow_the_generator():
    mels, lengths = torch.randn(2, 100, 80, generator=seeded()), torch.tensor([100, 90])
    first, again, other = (mask_mels(mels, lengths, seeded(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_no_masks_change_nothing():
    mels = torch.randn(2, 50, 80, generator=seeded())
    assert torch.equal(mask_mels(mels, torch.tensor([50, 40]), seeded(), MaskConfig(0, 0.0, 0, 0)), mels)
