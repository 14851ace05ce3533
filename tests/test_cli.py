"""Every command through `main`: what it prints, what it returns, and one line when something is wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

from omni import __version__
from omni.checkpoint import INDEX
from omni.cli import main
from omni.turns import EMOTIONS
from tests.tiny import REPOSITORY, voiced_clip

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command; returns (exit code, standard output, standard error)."""

    def call(*arguments: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main([str(a) for a in arguments])
        except SystemExit as ended:  # argparse
            code = int(ended.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def one_line(err: str) -> str:
    lines = [line for line in err.splitlines() if line]
    assert len(lines) == 1, err
    assert lines[0].startswith("omni: ")
    assert "Traceback" not in err
    return lines[0]


@pytest.fixture(autouse=True)
def understands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights understand nothing; let the recogniser always make out the same words."""
    from omni.nn.beam import LexiconDecoder
    from omni.turns import Heard

    monkeypatch.setattr(LexiconDecoder, "decode", lambda *_: Heard("my dog ran away", 0.9))
    monkeypatch.setattr("omni.assistant.speech_likelihood", lambda _: 1.0)


# -- reply -------------------------------------------------------------------------------------------------------------


def test_reply_writes_sound_and_tells_the_thought(
    run: Run, checkpoint: Path, clips: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "answer.wav"
    code, printed, err = run("reply", clips["low"], "-o", out, "--model", checkpoint)
    assert (code, err) == (0, "")
    lines = printed.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["heard", "perceived", "plan", "reply"]
    assert lines[0].split(maxsplit=1)[1] == "my dog ran away"
    assert lines[-1] == str(out)
    assert any(e in lines[1] for e in EMOTIONS)
    samples, rate = soundfile.read(out)
    assert rate == 16_000
    assert np.abs(samples).max() > 0


def test_reply_as_json_has_the_whole_turn(run: Run, checkpoint: Path, clips: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "answer.flac"
    code, printed, _ = run("reply", clips["high"], "-o", out, "--model", checkpoint, "--json", "--seed", 3)
    assert code == 0
    assert printed.count("\n") == 1
    turn = json.loads(printed)
    assert set(turn) >= {"heard", "perceived", "plan", "reply", "style", "audio", "timings_ms"}
    assert turn["heard"] == {"text": "my dog ran away", "confidence": 0.9, "understood": True}
    assert set(turn["perceived"]["probabilities"]) == set(EMOTIONS)
    assert set(turn["plan"]) == {"need", "strategy", "intent", "style"}
    assert turn["audio"] == str(out)
    assert turn["timings_ms"]["total"] > 0
    again = json.loads(
        run("reply", clips["high"], "-o", out, "--model", checkpoint, "--json", "--seed", 3, "--force")[1]
    )
    assert {k: again[k] for k in again if k != "timings_ms"} == {k: turn[k] for k in turn if k != "timings_ms"}


def test_an_existing_output_is_kept_unless_forced(
    run: Run, checkpoint: Path, clips: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "answer.wav"
    out.write_text("mine")
    code, printed, err = run("reply", clips["low"], "-o", out, "--model", checkpoint)
    assert (code, printed) == (4, "")
    assert "--force" in one_line(err)
    assert out.read_text() == "mine"
    assert run("reply", clips["low"], "-o", out, "--model", checkpoint, "--force")[0] == 0
    assert soundfile.info(str(out)).frames > 0


def test_outputs_that_cannot_be_written_are_refused_before_any_work(
    run: Run, clips: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("omni.assistant.Assistant.load", lambda *_: pytest.fail("the model was loaded first"))
    assert run("reply", clips["low"], "-o", tmp_path / "none" / "a.wav")[0] == 4
    assert run("reply", clips["low"], "-o", tmp_path)[0] == 2  # a folder has no suffix
    assert run("reply", clips["low"], "-o", tmp_path / "a.xyz")[0] == 2
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o500)
    if os.geteuid() == 0:  # root may write anywhere
        monkeypatch.setattr("omni.files.os.access", lambda path, mode: False)
    code, _, err = run("reply", clips["low"], "-o", locked / "a.wav")
    assert code == 4
    assert "read-only" in one_line(err)


@pytest.mark.parametrize(
    ("name", "words"),
    [("missing", "there is no file"), ("text", "not sound"), ("silent", "silent"), ("short", "at least 100 ms")],
)
def test_queries_that_cannot_be_heard_are_exit_code_3(
    run: Run, clips: dict[str, Path], tmp_path: Path, name: str, words: str
) -> None:
    path = clips.get(name, tmp_path / "missing.wav")
    code, printed, err = run("reply", path, "-o", tmp_path / "a.wav")
    assert (code, printed) == (3, "")
    assert words in one_line(err)
    assert not (tmp_path / "a.wav").exists()


@pytest.fixture
def bad_files(tmp_path: Path) -> dict[str, Path]:
    """Files that hold no query, by what is wrong with them."""
    folder = tmp_path / "bad"
    (folder / "folder.wav").mkdir(parents=True)
    (folder / "empty.wav").touch()
    for kind, value in (("nan", np.nan), ("infinite", np.inf)):
        samples = np.full(16_000, 0.1, np.float32)
        samples[900] = value
        soundfile.write(folder / f"{kind}.wav", samples, 16_000, subtype="FLOAT")
    noise = np.random.default_rng(0).uniform(-0.2, 0.2, 8000 * 60).astype(np.float32)
    with soundfile.SoundFile(folder / "half_an_hour.wav", "w", 8000, 1, "PCM_U8") as file:
        for _ in range(30):
            file.write(noise)
    soundfile.write(folder / "no_samples.wav", np.zeros(0, np.float32), 16_000)
    return {p.stem: p for p in folder.iterdir()}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("folder", "folder"),
        ("empty", "empty"),
        ("nan", "finite"),
        ("infinite", "finite"),
        ("half_an_hour", "120"),
        ("no_samples", "100 ms"),
    ],
)
def test_no_query_no_reply(run: Run, bad_files: dict[str, Path], tmp_path: Path, kind: str, words: str) -> None:
    code, printed, err = run("reply", bad_files[kind], "-o", tmp_path / "a.wav")
    assert (code, printed) == (3, "")
    assert words in one_line(err)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad"]  # nothing half-written


# -- hear --------------------------------------------------------------------------------------------------------------


def test_every_kind_of_recording_is_heard(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    sound = voiced_clip(1.0)
    kinds = ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAW", "ULAW", "IMA_ADPCM"]
    files = [tmp_path / f"{kind}.wav" for kind in kinds]
    for path in files:
        soundfile.write(path, sound, 16_000, subtype=path.stem)
    for rate in (8000, 11_025, 44_100, 192_000):
        files.append(tmp_path / f"{rate}.wav")
        soundfile.write(files[-1], np.interp(np.arange(0, 1, 1 / rate), np.arange(16_000) / 16_000, sound), rate)
    for channels in (2, 6):
        files.append(tmp_path / f"{channels}.wav")
        soundfile.write(files[-1], np.tile(sound[:, None], (1, channels)), 16_000)
    for suffix in ("mp3", "ogg", "flac"):
        files.append(tmp_path / f"a.{suffix}")
        soundfile.write(files[-1], sound, 16_000)
    whole = files[1].read_bytes()
    files.append(tmp_path / "truncated.wav")
    files[-1].write_bytes(whole[: len(whole) // 2])
    files.append(tmp_path / "clipped.wav")
    soundfile.write(files[-1], np.clip(20 * sound, -1, 1), 16_000)
    code, printed, _ = run("hear", *files, "--model", checkpoint)
    rows = [json.loads(line) for line in printed.splitlines()]
    assert [r["file"] for r in rows] == [str(f) for f in files]
    assert [r["error"] for r in rows if "error" in r] == []
    assert code == 0


def test_hear_goes_on_after_a_bad_file_and_keeps_the_order(
    run: Run, checkpoint: Path, clips: dict[str, Path], tmp_path: Path
) -> None:
    files = [clips["low"], clips["text"], tmp_path / "gone.wav", clips["flac"], clips["silent"], clips["high"]]
    code, printed, err = run("hear", *files, "--model", checkpoint)
    assert code == 3
    rows = [json.loads(line) for line in printed.splitlines()]
    assert [r["file"] for r in rows] == [str(f) for f in files]
    assert ["error" in r for r in rows] == [False, True, True, False, True, False]
    assert all(r["heard"]["text"] == "my dog ran away" for r in rows if "error" not in r)
    assert all("\n" not in r["error"] for r in rows if "error" in r)
    assert err == ""
    code, printed, _ = run("hear", clips["low"], "--model", checkpoint)
    assert code == 0
    assert json.loads(printed) == rows[0]


# -- info --------------------------------------------------------------------------------------------------------------


def test_info_lists_every_file_and_checks_it(run: Run, checkpoint: Path) -> None:
    code, printed, _ = run("info", "--model", checkpoint, "--json")
    assert code == 0
    found = json.loads(printed)
    assert found["version"] == __version__
    assert {r["file"] for r in found["files"]} == set(json.loads((checkpoint / INDEX).read_text())["files"])
    assert all(r["bytes"] == (checkpoint / r["file"]).stat().st_size for r in found["files"])
    code, printed, _ = run("info", "--model", checkpoint)
    assert code == 0
    assert "all hashes match" in printed.splitlines()[0]
    assert "listener.safetensors" in printed


def corrupt(folder: Path) -> None:
    path = folder / "voice.safetensors"
    path.write_bytes(path.read_bytes()[:-8] + b"\0" * 8)


def truncated(folder: Path) -> None:
    path = folder / "perceiver.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def no_index(folder: Path) -> None:
    (folder / INDEX).unlink()


def wrong_hash(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["files"]["words.safetensors"]["sha256"] = "0" * 64
    (folder / INDEX).write_text(json.dumps(index))


def config_of(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        from omni.checkpoint import sha256

        values = yaml.safe_load((folder / "config.yaml").read_text())
        change(values)
        (folder / "config.yaml").write_text(yaml.safe_dump(values))
        index = json.loads((folder / INDEX).read_text())
        index["files"]["config.yaml"]["sha256"] = sha256(folder / "config.yaml")
        (folder / INDEX).write_text(json.dumps(index))

    return damage


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (corrupt, "voice.safetensors is corrupt or was changed"),
        (truncated, "perceiver.safetensors is corrupt or was changed"),
        (no_index, "index.json is missing or malformed"),
        (wrong_hash, "words.safetensors is corrupt or was changed: sha256"),
        (config_of(lambda v: v["llm"].update(temprature=1.0)), "unknown key 'temprature'"),
        (config_of(lambda v: v["listener"].update(width="wide")), "listener.width: expected int, got 'wide'"),
        (config_of(lambda v: v["decoder"].update(width=40)), "voice.safetensors does not fit the configuration"),
    ],
    ids=["corrupt", "truncated", "no index", "wrong hash", "unknown key", "wrong type", "mismatched"],
)
def test_damaged_checkpoints_are_exit_code_5(
    run: Run, own_checkpoint: Path, clips: dict[str, Path], tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    damage(own_checkpoint)
    code, printed, err = run("reply", clips["low"], "-o", tmp_path / "a.wav", "--model", own_checkpoint)
    assert (code, printed) == (5, "")
    assert words in one_line(err)
    assert not (tmp_path / "a.wav").exists()


def test_a_checkpoint_that_is_nowhere_is_exit_code_5(run: Run) -> None:
    code, _, err = run("info", "--model", "no-such-model")
    assert code == 5
    assert "no checkpoint 'no-such-model'" in one_line(err)


def test_the_neural_vocoder_needs_its_weights(
    run: Run, checkpoint: Path, clips: dict[str, Path], tmp_path: Path
) -> None:
    code, _, err = run("reply", clips["low"], "-o", tmp_path / "a.wav", "--model", checkpoint, "--vocoder", "neural")
    assert code == 5
    assert "vocoder.safetensors" in one_line(err)


# -- train, pack, synth ------------------------------------------------------------------------------------------------

RECIPE = """
part: {part}
steps: 3
learning_rate: 0.001
data: {{manifests: [manifest.jsonl], variants: 1, batch_frames: 300}}
model: {{width: 16, feedforward: 16, heads: 2, outer_layers: 1, inner_layers: 1, last_layers: 1}}
debug: {{steps: 2}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "0_listener.yaml"
    path.write_text(RECIPE.format(part="listener"))
    return path


@pytest.fixture
def data(tmp_path: Path, clips: dict[str, Path]) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [
        {"id": n, "audio": str(clips[n]), "speaker": n, "text": "go now", "duration_s": 1.2} for n in ("low", "flac")
    ]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


def test_train_runs_a_recipe_and_goes_on_where_it_stopped(
    run: Run, recipe: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, printed, _ = run("train", recipe, "--data", data, "--debug", "--threads", 1)
    assert code == 0
    assert printed.startswith("step 2 of 2; weights in runs/listener/export")
    assert (tmp_path / "runs" / "listener" / "export" / "listener.safetensors").is_file()
    monkeypatch.setenv("OMNI_DATA", str(data))
    code, printed, _ = run("train", recipe, "--run", tmp_path / "runs" / "listener")
    assert code == 0
    assert printed.startswith("step 3 of 3")


def test_train_says_what_is_missing(run: Run, recipe: Path, data: Path, tmp_path: Path) -> None:
    code, _, err = run("train", recipe)
    assert code == 2
    assert "--data DIR or set OMNI_DATA" in one_line(err)
    assert run("train", recipe, "--data", tmp_path / "none")[0] == 2
    assert run("train", tmp_path / "none.yaml", "--data", data)[0] == 5
    (data / "manifest.jsonl").write_text("")
    assert run("train", recipe, "--data", data, "--run", tmp_path / "r")[0] == 6
    recipe.write_text(RECIPE.format(part="ears"))
    code, _, err = run("train", recipe, "--data", data)
    assert code == 5
    assert "part: unknown 'ears'" in one_line(err)


def test_pack_collects_runs(run: Run, runs: Path, tmp_path: Path) -> None:
    code, printed, _ = run("pack", runs, tmp_path / "packed")
    assert code == 0
    assert printed.strip() == str(tmp_path / "packed" / INDEX)
    assert run("info", "--model", tmp_path / "packed")[0] == 0
    code, _, err = run("pack", tmp_path / "nothing", tmp_path / "out")
    assert code == 5
    assert "train it first" in one_line(err)


def test_pack_into_a_place_that_cannot_be_made_is_one_line(run: Run, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = run("pack", runs, tmp_path / "file" / "out")
    assert code in (1, 4)
    one_line(err)


def test_synth_reads_texts_aloud(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tone = np.full(16_000, 0.1, np.float32)
    monkeypatch.setattr("omni.data.synthesis.random_reading", lambda text, seed: (tone, "flite:rms"))
    text = tmp_path / "a.txt"
    text.write_text("the dog ran away\nwe go to the lake\n")
    code, printed, _ = run("synth", tmp_path / "out", "--text", text, "--clips", 2)
    assert code == 0
    assert printed.strip() == str(tmp_path / "out" / "manifest.jsonl")
    assert run("synth", tmp_path / "o", "--text", tmp_path / "none.jsonl")[0] in (1, 6)


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [[], ["sing"], ["reply"], ["reply", "a.wav", "--seed", "x"], ["reply", "a.wav", "--vocoder", "gramophone"], ["hear"],
     ["train"], ["info", "--nope"], ["synth", "out"]],
)  # fmt: skip
def test_wrong_options_are_exit_code_2(run: Run, arguments: list[str]) -> None:
    code, printed, err = run(*arguments)
    assert (code, printed) == (2, "")
    assert "usage: omni" in err


def test_help_and_version(run: Run) -> None:
    from omni.cli import parser

    code, printed, _ = run("--help")
    assert code == 0
    commands = {name for action in parser()._actions for name in (action.choices or ())}
    assert {"reply", "hear", "info", "train", "eval", "bench", "pack"} <= commands
    assert all(re.search(rf"^\s+{c}\b", printed, re.M) for c in commands)
    for command in sorted(commands):
        code, text, _ = run(command, "--help")
        assert (code, text.startswith(f"usage: omni {command}")) == (0, True)
    assert run("--version")[1].strip() == f"omni {__version__}"


def test_eval_needs_data(run: Run) -> None:
    code, _, err = run("eval", "asr")
    assert code == 2
    assert "--data" in one_line(err)


@pytest.mark.parametrize(
    ("raised", "code"),
    [(KeyboardInterrupt(), 130), (OSError(28, "No space left on device"), 1)],
)
def test_interrupts_and_full_disks(run: Run, monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int) -> None:
    def fail(*_: Any) -> None:
        raise raised

    monkeypatch.setattr("omni.checkpoint.open_checkpoint", fail)
    found, _, err = run("info")
    assert found == code
    assert "Traceback" not in err
    assert err.count("\n") <= 1


def test_a_reader_that_goes_away_is_no_traceback(checkpoint: Path) -> None:
    """As in `omni info | head -0`: the pipe is closed before anything is printed."""
    read, write = os.pipe()
    os.close(read)
    command = [
        sys.executable,
        "-c",
        "from omni.cli import main; raise SystemExit(main())",
        "info",
        "--model",
        str(checkpoint),
    ]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY, check=False)
    os.close(write)
    assert done.returncode in (0, 1)
    assert "Traceback" not in done.stderr
