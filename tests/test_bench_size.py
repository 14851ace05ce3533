"""The bench of presets runs on tiny layers, says so, and adds up; its command refuses what does not go together."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from omni import bench_size, bench_stages
from omni.bench_size import Taken, copy_bandwidth
from omni.bench_stages import CLAUSE, REPLY, Stage, Workshop, Writer, Written
from omni.cli import main
from omni.errors import ConfigError, ModelError
from omni.preset import PartSpec, load_preset

OWN = {"kind": "omni-mini", "licence": "x"}


def preset(folder: Path, checkpoint: Path, **changed: dict[str, Any]) -> Path:
    """The file of cascade with this project's parts from a tiny checkpoint."""
    parts: dict[str, Any] = {
        "listener": {"kind": "whisper", "model": "openai/whisper-small.en", "licence": "x"},
        "perceiver": {"kind": "emotion", "model": "superb/hubert-large-superb-er", "licence": "x"},
        "sentiment": {**OWN, "model": str(checkpoint)},
        "responder": {"kind": "chat", "model": "Qwen/Qwen2.5-0.5B-Instruct", "licence": "x"},
        "voice": {"kind": "vits", "model": "facebook/mms-tts-eng", "licence": "x"},
    } | changed
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"about": "tiny models", "parts": parts}))
    return path


def plain_numbers(value: Any) -> list[float]:
    """All numbers in nested dictionaries."""
    if isinstance(value, dict):
        return [n for v in value.values() for n in plain_numbers(v)]
    return [float(value)]


@pytest.mark.parametrize("own_voice", [False, True])
def test_a_bench_writes_figures_and_page_and_says_that_it_was_tiny(
    tmp_path: Path, checkpoint: Path, own_voice: bool
) -> None:
    changed = {"voice": {**OWN, "model": str(checkpoint)}} if own_voice else {}
    numbers = bench_size.run(str(preset(tmp_path, checkpoint, **changed)), "cpu", tmp_path, tiny=True, rounds=1)
    written = json.loads((tmp_path / "results" / "bench-mine-tiny.json").read_text(encoding="utf-8"))
    assert written["numbers"] == json.loads(json.dumps(numbers))
    assert [row["what"].split(": ")[-1].split(" ")[0] for row in written["rows"]] == [
        "hearing", "perceiving", "reading", "tokens", "from", "making", "peak",
    ]  # fmt: skip
    assert all(row["what"].startswith("TINY, no real figures") for row in written["rows"])
    assert all(math.isfinite(n) and n > 0 for n in plain_numbers(numbers))
    assert set(numbers["decoding"]) == {"listener", "responder"}
    assert [d["tokens"] for d in numbers["decoding"].values()] == [16, 86]
    assert written["options"]["tiny"] is True
    page = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "## Speed of mine-tiny on random weights" in page
    assert bench_size.TINY_NOTE in page
    assert "--random-weights --device cpu --tiny`" in page


@pytest.mark.parametrize(
    ("part", "name"), [("listener", "lpe-7b"), ("responder", "lpe-7b"), ("voice", "cascade-higgs")]
)
def test_every_published_part_can_be_timed(part: str, name: str) -> None:
    spec = load_preset(name).parts[part]
    stage = Workshop("cpu", torch.float32, tiny=True).stage(part, spec)
    once = bench_size._once(stage, "cpu", ours_first=False)
    assert stage.writer is not None
    assert len(once.ours[0].stamps_s) == len(once.generated[0].stamps_s) == stage.writer.tokens
    assert once.ours[0].stamps_s == sorted(once.ours[0].stamps_s)
    assert list(once.steps_s) == list(stage.steps)
    assert once.sound_s == (14.6 if part == "voice" else 0)


def test_the_end_to_end_preset_is_timed_through_its_own_voice(tmp_path: Path) -> None:
    parts, workshop = load_preset("empathy-omni-0.5b").parts, Workshop("cpu", torch.float32, tiny=True)
    listener, responder = (workshop.stage(part, parts[part]) for part in ("listener", "responder"))
    assert list(listener.steps) == ["Whisper, WavLM and adapters", "labels of the tone"]
    assert listener.writer is not None
    assert listener.writer.model is responder.writer.model  # type: ignore[union-attr]
    once = bench_size._once(workshop.stage("voice", parts["voice"]), "cpu", ours_first=True)
    assert once.sound_s == pytest.approx(35 / 2.4, abs=0.1)
    assert responder.first_tokens == 46  # the voice begins before the first clause is whole


def test_parts_that_name_the_same_model_share_it() -> None:
    parts, workshop = load_preset("lpe-7b").parts, Workshop("cpu", torch.float32, tiny=True)
    listener, responder = (workshop.stage(part, parts[part]) for part in ("listener", "responder"))
    assert listener.writer.model is responder.writer.model
    assert not workshop.stage("perceiver", parts["perceiver"]).steps


def test_times_add_up() -> None:
    writer = SimpleNamespace(tokens=4, decoder=SimpleNamespace(bytes_a_step=lambda: 1000))
    stages = {
        "listener": Stage("a", writer=writer), "perceiver": Stage("b"), "sentiment": Stage("c"),
        "responder": Stage("d", writer=writer, first_tokens=2), "voice": Stage("e"),
    }  # fmt: skip
    slow, quick = Written([0.5, 1.0, 1.5, 2.0]), Written([0.5, 0.75, 1.0, 1.25])
    taken = {
        "listener": Taken({"encoder": [0.1, 0.3, 0.2]}, [quick], [slow]),
        "perceiver": Taken({"classifier": [0.25]}),
        "sentiment": Taken({"sentiment": [0.0]}),
        "responder": Taken({}, [quick], [slow]),
        "voice": Taken({"first": [0.5], "whole": [2.0]}, sound_s=10.0),
    }
    numbers = bench_size._result(load_preset("cascade"), "cpu", stages, taken, 8000.0, False).numbers
    hearing = 0.2 + 1.25
    assert numbers["hearing_ms"] == pytest.approx(1000 * hearing)
    assert numbers["prefill_ms"] == pytest.approx(500)
    assert numbers["first_sound_ms"] == pytest.approx(1000 * (hearing + 0.25 + 0.75 + 0.5))
    assert numbers["real_time_factor"] == pytest.approx((hearing + 0.25 + 1.25 + 2.0) / 10)
    decoding = numbers["decoding"]["responder"]
    assert decoding["tokens_a_second"] == pytest.approx(4.0)
    assert decoding["over_generate"] == pytest.approx(2.0)
    assert decoding["bound_tokens_a_second"] == pytest.approx(8.0)
    assert decoding["of_bound"] == pytest.approx(0.5)


def test_a_model_that_ends_early_is_said() -> None:
    def generate(streamer: Any, **given: Any) -> None:
        for _ in range(3):
            streamer.put(torch.zeros(1))

    model = SimpleNamespace(device=torch.device("cpu"), generate=generate)
    writer = Writer(model, SimpleNamespace(), 4, lambda: torch.zeros(1), dict, codebooks=2)
    with pytest.raises(ModelError, match="generate wrote 2 tokens, not 4"):
        writer.generated()


def test_counts_are_those_of_the_reply() -> None:
    assert (len(CLAUSE.split()), len(REPLY.split())) == (8, 35)
    assert (bench_stages.CLAUSE_TOKENS, bench_stages.REPLY_TOKENS, bench_stages.QUERY_TOKENS) == (11, 46, 16)
    assert len(bench_stages.query()) == 80_000


def test_a_copy_moves_a_plausible_number_of_bytes() -> None:
    assert 1e8 < copy_bandwidth("cpu", 2**22) < 1e13


def test_presets_that_cannot_be_measured_are_refused(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="omni-mini has no published models; measure it with: omni bench"):
        bench_size.run("omni-mini", "cpu", tmp_path)
    unknown = {"kind": "chat", "model": "org/none", "licence": "x"}
    with pytest.raises(ModelError, match="configuration of org/none is not kept"):
        bench_size.run(str(preset(tmp_path, checkpoint, responder=unknown)), "cpu", tmp_path, tiny=True)
    with pytest.raises(ModelError, match="name a published responder"):
        Workshop("cpu", torch.float32).stage("responder", PartSpec("omni-mini", str(checkpoint), "x"))
    assert not (tmp_path / "results").exists()


def test_the_command_line(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def run(*given: Any) -> dict[str, bool]:
        asked.append(given)
        return {"tiny": given[3]}

    monkeypatch.setattr(bench_size, "run", run)
    command = ["bench", "--preset", "cascade", "--random-weights", "--out", str(tmp_path)]
    assert main([*command, "--device", "cpu", "--tiny"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out) == {"tiny": True}
    assert "no figure below" in told.err
    assert asked == [("cascade", "cpu", tmp_path, True, False)]
    for wrong, why in (
        (["bench", "--preset", "cascade"], "go together"),
        (["bench", "--random-weights"], "go together"),
        ([*command, "query.wav"], "leave out --model and recordings"),
        ([*command, "--model", "x"], "leave out --model and recordings"),
        (["bench", "--tiny"], "--tiny goes with --preset"),
        (["bench", "--device", "cpu"], "--device goes with --preset"),
    ):
        assert main(wrong) == 2
        assert why in capsys.readouterr().err
