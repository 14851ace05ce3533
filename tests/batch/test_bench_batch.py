"""The bench of batches: figures in their own file, and a section of the page."""

from __future__ import annotations

import json

import pytest

from omni.cli import main


@pytest.mark.slow
def test_figures_and_page(checkpoint, clips, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("omni.bench_batch.os.cpu_count", lambda: 1)
    line = ["bench", "--batch", str(clips["low"]), str(clips["high"]), "--copies", "2", "--out", str(tmp_path)]
    assert main([*line, "--model", str(checkpoint)]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["queries_a_minute"]["batch"] > 0
    assert figures["times_the_loop"] == pytest.approx(
        figures["queries_a_minute"]["batch"] / figures["queries_a_minute"]["loop"]
    )
    assert "## Speed of batches" in (tmp_path / "results.md").read_text()
    assert main(["bench", "--batch", "--copies", "0", "--model", str(checkpoint)]) == 2
