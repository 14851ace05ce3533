"""Mimi as a stream equals Mimi at once, however the frames are cut."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omni.backbones.mimi import Mimi

CODEBOOKS, FRAMES = 4, 23


@pytest.fixture(scope="module")
def mimi(mimi_folder: Path) -> Mimi:
    return Mimi.load(mimi_folder)


@pytest.fixture(scope="module")
def codes(mimi: Mimi) -> torch.Tensor:
    return torch.randint(
        0, mimi.model.config.codebook_size, (2, CODEBOOKS, FRAMES), generator=torch.Generator().manual_seed(1)
    )


@given(cuts=st.sets(st.integers(1, FRAMES - 1)))
@settings(max_examples=12, deadline=None)
def test_a_stream_equals_one_whole_decode(mimi: Mimi, codes: torch.Tensor, cuts: set[int]) -> None:
    """Also beyond the transformer's window (eight steps of the upsampled frames here)."""
    whole = mimi.decode(codes)
    assert whole.std() > 1e-3
    stream, edges = mimi.stream(), [0, *sorted(cuts), FRAMES]
    parts = [stream.push(codes[..., a:b]) for a, b in pairwise(edges)]
    assert [p.shape[1] for p in parts] == [(b - a) * mimi.frame_samples for a, b in pairwise(edges)]
    assert torch.allclose(torch.cat(parts, dim=1), whole, atol=1e-4 * float(whole.abs().max()))


def test_two_streams_do_not_mix(mimi: Mimi, codes: torch.Tensor) -> None:
    one, two = mimi.stream(), mimi.stream()
    alone = mimi.stream().push(codes[:1, :, :3])
    one.push(codes[1:, :, :5])
    assert torch.equal(two.push(codes[:1, :, :3]), alone)


def test_sound_becomes_codes_of_the_first_codebooks(mimi: Mimi) -> None:
    sound = torch.randn(1, 4 * mimi.frame_samples)
    few, more = mimi.encode(sound, 2), mimi.encode(sound, CODEBOOKS)
    assert few.shape == (1, 2, 4)
    assert torch.equal(more[:, :2], few)
    assert mimi.decode(more).shape == sound.shape
