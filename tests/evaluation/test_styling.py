"""The style judge passes sound that does what the targets ask, and fails sound that does not."""

from __future__ import annotations

import numpy as np
import pytest

from omni.evaluation.sound import SoundMeasures
from omni.evaluation.styling import TARGETS, TEXTS, Target, changes, judge
from omni.models.style import TABLE
from omni.turns import STYLES


def spoken(
    factor: float = 1.0, spread: float = 1.0, rate: float = 1.0, db: float = 0.0, shape: float = 1.0
) -> np.ndarray:
    """A 'sentence' of two seconds whose pitch moves once up and down, or otherwise with another `shape`."""
    time = np.linspace(0, 1, round(32_000 / rate))
    hz = 160 * factor * 2 ** (spread * 0.25 * np.sin(2 * np.pi * shape * time))
    phase = 2 * np.pi * np.cumsum(hz) / 16_000
    tone = sum(np.sin(k * phase) / k for k in range(1, 9))
    quiet = np.zeros(3200)
    return np.concatenate([quiet, 0.2 * 10 ** (db / 20) * tone, quiet]).astype(np.float32)


def clips(flat: bool = False) -> dict[str, list[np.ndarray]]:
    made = {}
    for index, style in enumerate(STYLES):
        want = TABLE[style].style
        shape = 1.0 if flat else 0.5 + 0.4 * index
        if flat:
            made[style] = [spoken()] * 2
        else:
            shape = 1.0 + 0.5 * index
            made[style] = [spoken(want.pitch, want.pitch_range * 1.02, want.rate, want.energy_db, shape)] * 2
    return made


def test_changes_are_against_neutral():
    neutral = SoundMeasures(100.0, 2.0, 6.0, 2.0, -20.0)
    styled = SoundMeasures(110.0, 2.5, 6.0, 1.6, -21.0)
    assert changes(styled, neutral) == pytest.approx({"pitch": 0.1, "range": 0.25, "rate": 0.25, "level": -1.0})


def test_targets_have_a_direction():
    assert Target("rate", -0.08).met(-0.1)
    assert not Target("rate", -0.08).met(-0.05)
    assert Target("pitch", 0.08).met(0.08)
    assert not Target("pitch", 0.08).met(-0.2)


def test_the_table_of_styles_promises_at_least_what_is_asked():
    neutral = SoundMeasures(100.0, 1.0, 1.0, 1.0, 0.0)
    for name, targets in TARGETS.items():
        style = TABLE[name].style
        promised = changes(
            SoundMeasures(100.0 * style.pitch, style.pitch_range, 1.0, 1 / style.rate, style.energy_db), neutral
        )
        for target in targets:
            assert target.met(promised[target.axis]), f"{name}: {target.text()}, but the table gives {promised}"
    assert set(TARGETS) == set(STYLES) - {"neutral"}
    assert len(TEXTS) == len(set(TEXTS)) == 10


def test_voices_that_do_as_asked_pass_and_one_flat_voice_fails():
    flat = judge(clips(flat=True))
    assert [row.floor_met for row in flat.rows] == [False, False]
    assert set(flat.numbers["passed"].values()) == {0}
    lively = judge(clips())
    assert lively.numbers["passed"] == {
        "cheerful": 2,
        "comforting": 2,
        "serious": 2,
        "warm": 2,
        "calm": 2,
        "apologetic": 2,
    }
    assert lively.rows[0].aim_met
    assert lively.rows[1].floor_met
