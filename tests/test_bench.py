"""The bench measures a tiny assistant from a recording to the page; its judgements follow the figures."""

from __future__ import annotations

import json

import pytest

from omni import bench
from omni.errors import DataError
from omni.evaluation import memory
from omni.evaluation.settings import Result
from omni.turns import Audio
from tests.tiny import voiced_clip


def test_a_bench_writes_figures_and_page(checkpoint, clips, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "_peer", lambda assistant, sounds: [900.0])
    monkeypatch.setattr(memory, "measure", lambda query, where: {"loaded_mb": 500.0, "peak_mb": 900.0})
    numbers = bench.run(str(checkpoint), tmp_path, [clips["low"]], rounds=1)
    written = json.loads((tmp_path / "results" / "bench.json").read_text(encoding="utf-8"))
    assert written["numbers"]["memory_mb"]["peak_mb"] == 900.0
    assert [row["floor_met"] for row in written["rows"]][2] is True
    assert [row["aim_met"] for row in written["rows"]][2] is False
    assert numbers["real_time_factor"]["median"] > 0
    assert {"listen", "perceive", "express", "voice", "total"} <= set(numbers["parts_ms"])
    assert "Speed and memory" in (tmp_path / "results.md").read_text(encoding="utf-8")


def test_the_wait_starts_when_the_query_ends(assistant, monkeypatch):
    sound = Audio(voiced_clip(0.4))

    def stream(blocks, seed=0):
        taken = sum(len(b) for b in blocks)
        assert taken == len(sound.samples)
        yield sound.samples

    monkeypatch.setattr(assistant, "stream", stream, raising=False)
    wait_ms, played = bench.latency_ms(assistant, sound)
    assert 0 <= wait_ms < 2000  # this machine may be busy; see the clock's own tests for exact times
    assert played.sound_s == pytest.approx(0.4)


@pytest.mark.slow
def test_peak_memory_of_a_process_of_its_own(checkpoint, clips):
    found = memory.measure(clips["low"], str(checkpoint))
    assert 50 < found["loaded_mb"] <= found["peak_mb"]


def test_judgement_of_memory():
    result = Result()
    bench._memory(result, {"loaded_mb": 300.0, "peak_mb": 700.0})
    bench._memory(result, {"loaded_mb": 300.0, "peak_mb": 2500.0})
    assert [(r.floor_met, r.aim_met) for r in result.rows] == [(True, True), (False, False)]


def test_no_recordings_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "EXAMPLES", tmp_path)
    with pytest.raises(DataError, match="name some"):
        bench.example_queries()
