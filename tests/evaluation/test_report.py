"""The page says what the figures say: passed and missed, samples, what was not measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from omni.errors import DataError, UsageError
from omni.evaluation import SUITES, chosen, report
from omni.evaluation.settings import Result, Row, Settings, Table, between, percent
from omni.packing import FILES


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(report, "weights_digest", lambda *_: "abc123")
    rows = [Row("errors", "40 %", "peer 30 %", "42 %", "below peer", True, False), Row("only shown", "0.5")]
    table = Table("Detail | more", ("a", "b"), [("x|y", "two\nlines")], "A remark.")
    result = Result(rows, [table], ["A note."], {"wer": 0.4}, {"clips": 3})
    report.save(tmp_path, "hearing", result, {"model": "tiny", "limit": None, "seed": 7})
    return tmp_path


def test_page(saved):
    page = report.render(saved).read_text(encoding="utf-8")
    assert "| errors | 40 % | peer 30 % | 42 %: passed | below peer: **missed** |" in page
    assert "**1 of 1 floors and 0 of 1 aims are met.**" in page
    assert "| x\\|y | two lines |" in page
    assert "A note." in page
    assert "A remark." in page
    assert "seed 7" in page
    assert "Not measured: Perceiving, Replying, Voicing, Styling, Speed and memory." in page
    assert "--limit" not in page


def test_samples_are_marked(saved):
    path = saved / "results" / "hearing.json"
    values = json.loads(path.read_text())
    assert values["numbers"] == {"wer": 0.4}
    assert values["weights"] == "abc123"
    values["options"]["limit"] = 5
    path.write_text(json.dumps(values))
    assert "only a sample (--limit 5)" in report.render(saved).read_text()


def test_a_damaged_result_is_named(saved):
    (saved / "results" / "hearing.json").write_text("{}")
    with pytest.raises(DataError, match=r"hearing\.json is not a result"):
        report.render(saved)


def test_commit_is_known_or_said_to_be_unknown():
    found = report.commit()
    assert found == "unknown" or len(found.rstrip("+")) >= 7


def test_suites_by_name():
    assert chosen([]) == chosen(["all"]) == list(SUITES)
    assert chosen(["styling", "hearing"]) == ["hearing", "styling"]
    with pytest.raises(UsageError, match="no suite 'speed'"):
        chosen(["speed"])


def test_limits_draw_a_fixed_sample_in_order(tmp_path):
    items = list(range(50))
    few = Settings(tmp_path, limit=10, seed=3).sample(items)
    assert few == sorted(few) == Settings(tmp_path, limit=10, seed=3).sample(items)
    assert len(few) == 10
    assert Settings(tmp_path, limit=99).sample(items) == Settings(tmp_path).sample(items) == items
    with pytest.raises(DataError, match="librispeech"):
        Settings(tmp_path).folder("librispeech")


def test_figures_as_text():
    assert percent(0.2564) == "25.6 %"
    assert between((0.2, 0.301)) == "20.0 to 30.1 %"


def test_a_new_voice_leaves_hearing_valid_and_a_new_listener_does_not(own_checkpoint):
    def digests():
        return {name: report.weights_digest(str(own_checkpoint), name) for name in report.HEADINGS}

    def change(stem):
        index = json.loads((own_checkpoint / "index.json").read_text())
        index["files"][f"{stem}.safetensors"]["sha256"] = "0" * 64
        (own_checkpoint / "index.json").write_text(json.dumps(index))

    first = digests()
    change("voice")
    voiced = digests()
    changed = {name for name in first if first[name] != voiced[name]}
    assert changed == {"voicing", "styling", "bench"}
    change("listener")
    assert {name for name in first if voiced[name] != digests()[name]} == set(first) - {"styling", "prompting"}


def test_every_file_that_ships_is_known_to_the_digests():
    stems = {stem for used, _ in report.USED.values() for stem in used}
    assert stems == {Path(part.name).stem for part in FILES} - {"speech_adapter"}  # which is for training alone
