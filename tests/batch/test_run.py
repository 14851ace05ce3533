"""A batch: records, failures, going on after every possible fault, the same bytes with any number of processes."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import soundfile

from omni.audio.io import WRITE_FORMATS
from omni.batch import groups, ledger, store, work, worker
from omni.batch.job import Job
from omni.batch.run import Options, run
from omni.batch.work import Answered
from omni.cli import main
from omni.errors import OutputError, UsageError
from omni.turns import EMOTIONS, Audio
from tests.tiny import REPOSITORY, SAMPLE_RATE_HZ, voiced_clip

ONE = Options(workers=1)


def tree(out: Path) -> dict[str, bytes]:
    """Everything that must be the same after any interruption."""
    paths = sorted(p for p in out.rglob("*") if p.is_file() and p.name not in ("timings.jsonl", ".lock"))
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in paths}


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty queries, of which one is no sound."""
    made = tmp_path_factory.mktemp("queries")
    for number in range(19):
        soundfile.write(made / f"q{number:02}.wav", voiced_clip(0.8, 100 + 8 * number, number), SAMPLE_RATE_HZ)
    (made / "q19.wav").write_text("this is not sound\n")
    return made


@pytest.fixture(scope="module")
def whole(folder: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of an undisturbed run in this process."""
    out = tmp_path_factory.mktemp("whole") / "out"
    summary = run(str(folder), out, Job(str(checkpoint)), Options(workers=1, report=True))
    assert (summary.queries, summary.failed) == (20, 1)
    (out / "report.html").unlink()
    return out


def test_every_query_has_its_record_and_sound(whole, folder):
    found = rows(whole)
    assert [row["id"] for row in found] == [f"q{n:02}" for n in range(20)]
    assert [row["status"] for row in found] == ["ok"] * 19 + ["failed"]
    assert "not sound" in found[-1]["error"]
    assert found[-1]["file"] is None
    for row in found[:-1]:
        assert set(row["probabilities"]) == set(EMOTIONS)
        assert set(row["plan"]) == {"need", "strategy", "intent", "style"}
        assert row["reply"]
        samples, rate = soundfile.read(whole / row["file"])
        assert len(samples) / rate == pytest.approx(row["reply_s"], abs=1e-3)
        assert json.loads((whole / row["file"]).with_suffix(".json").read_text()) == row
    timed = [json.loads(line) for line in (whole / "timings.jsonl").read_text().splitlines()]
    assert [row["id"] for row in timed] == [row["id"] for row in found]
    assert timed[0]["ms"]["total"] > 0


def test_going_on_with_other_queries_or_options_is_refused(whole, folder, checkpoint, tmp_path):
    with pytest.raises(UsageError, match="--text-only"):
        run(str(folder), whole, Job(str(checkpoint), text_only=True), ONE)
    with pytest.raises(UsageError, match="another input"):
        run(str(folder / "q0*.wav"), whole, Job(str(checkpoint)), ONE)
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(OutputError, match="not empty"):
        run(str(folder), tmp_path, Job(str(checkpoint)), ONE)
    with pytest.raises(UsageError, match="lies in"):
        run(str(folder), folder / "out", Job(str(checkpoint)), ONE)
    with store.opened(whole, {}), pytest.raises(OutputError, match="another run"), store.opened(whole, {}):
        pass


# -- faults at every write and rename -----------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Answers that cost nothing, groups of two, five queries; returns the folder of queries."""

    def answer(assistant: Any, query: Any, job: Job) -> Answered:
        bad = query.id == "q3" and not (tmp_path / "mended").exists()
        record = {"id": query.id, "source": query.source, "status": "failed" if bad else "ok", "error": bad or None}
        return Answered(record, None if bad else Audio(voiced_clip(0.1)), {"total": 1.0})

    monkeypatch.setattr(groups, "SIZE", 2)
    monkeypatch.setattr(work, "load", lambda job: None)
    monkeypatch.setattr(work, "answer", answer)
    monkeypatch.setattr(worker, "_assistant", {})
    made = tmp_path / "in"
    made.mkdir()
    for number in range(5):
        (made / f"q{number}.wav").write_bytes(b"-")
    return made


def break_at(monkeypatch: pytest.MonkeyPatch, moment: int, error: BaseException, afterwards: bool) -> list[str]:
    """The `moment`-th write or rename fails, halfway; with `afterwards` so does every later one. Returns what was done."""
    done: list[str] = []

    def breaking(module: Any, name: str) -> None:
        real = getattr(module, name)

        def call(path: Path, what: Any) -> None:
            done.append(name)
            if len(done) == moment or (afterwards and len(done) > moment):
                if isinstance(what, bytes):
                    with path.open("ab") as file:
                        file.write(what[: len(what) // 2])
                raise error
            real(path, what)

        monkeypatch.setattr(module, name, call)

    breaking(store, "write_file")
    breaking(store, "rename")
    breaking(ledger, "append")
    return done


@pytest.mark.parametrize("kind", ["full", "killed"])
@pytest.mark.parametrize("again", [False, True], ids=["first", "retry"])
def test_a_fault_at_each_write_and_rename(quick, checkpoint, tmp_path, monkeypatch, kind, again):
    job, options = Job(str(checkpoint)), Options(workers=1, retry_failed=again)

    def start(name: str) -> Path:
        out = tmp_path / name
        if again:  # a finished run with a failure, which is then mended
            (tmp_path / "mended").unlink(missing_ok=True)
            assert run(str(quick), out, job, ONE).failed == 1
            (tmp_path / "mended").touch()
        return out

    expected = start("undisturbed")
    with monkeypatch.context() as patch:
        steps = break_at(patch, 0, Killed(), False)
        assert run(str(quick), expected, job, options).failed == (0 if again else 1)
    assert len(steps) >= 8
    for moment in range(1, len(steps) + 1):
        out = start(f"out{moment}")
        with monkeypatch.context() as patch:
            full = kind == "full"
            break_at(patch, moment, OSError(errno.ENOSPC, "No space left") if full else Killed(), not full)
            if not full:
                patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # nothing is tidied up after a kill
            with pytest.raises(OutputError if full else Killed, match="disk is full" if full else None):
                run(str(quick), out, job, options)
        assert run(str(quick), out, job, options).failed == (0 if again else 1)
        assert tree(out) == tree(expected), f"after a fault at step {moment}, {steps[moment - 1]}"


def test_only_what_failed_is_tried_again(quick, checkpoint, tmp_path, monkeypatch):
    out, job = tmp_path / "out", Job(str(checkpoint))
    run(str(quick), out, job, ONE)
    before = tree(out)
    (tmp_path / "mended").touch()
    tried = []
    real = work.answer
    monkeypatch.setattr(work, "answer", lambda a, q, j: tried.append(q.id) or real(a, q, j))
    assert run(str(quick), out, job, ONE).failed == 1
    assert tried == []
    assert run(str(quick), out, job, Options(workers=1, retry_failed=True)).failed == 0
    assert tried == ["q3"]
    changed = {name for name, data in tree(out).items() if before.get(name) != data}
    assert changed == {"manifest.jsonl", "replies/0000/001/q3.json", "replies/0000/001/q3.wav"}


# -- real processes -----------------------------------------------------------------------------------------------------


def command(folder: Path, out: Path, checkpoint: Path, *more: str) -> subprocess.Popen[bytes]:
    line = [sys.executable, "-m", "omni.cli", "batch", str(folder), str(out), "--model", str(checkpoint), *more]
    where = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(line, cwd=out.parent, env=where, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_three_kills_leave_no_trace(folder, checkpoint, whole, tmp_path):
    out = tmp_path / "out"
    moments = (
        lambda: any((out / ".aside").glob("0*/*")),  # amid a group
        lambda: any((out / "replies").glob("*/*")),  # a group stands, perhaps not yet in the manifest
        lambda: (out / "manifest.jsonl").stat().st_size > 0,
    )
    for reached, workers in zip(moments, ("1", "2", "1"), strict=True):
        process = command(folder, out, checkpoint, "--workers", workers)
        while not (out.exists() and reached()) and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    last = command(folder, out, checkpoint, "--workers", "2")
    _, told = last.communicate(timeout=120)
    assert last.returncode == 3, told.decode()
    assert tree(out) == tree(whole)


# -- the command --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["flac", "mp3", "opus"])
def test_formats(folder, checkpoint, tmp_path, kind):
    out = tmp_path / "out"
    line = [
        "batch",
        str(folder / "q0[01].wav"),
        str(out),
        "--model",
        str(checkpoint),
        "--workers",
        "1",
        "--format",
        kind,
    ]
    assert main(line) == 0
    assert [Path(row["file"]).suffix for row in rows(out)] == [f".{kind}"] * 2
    assert soundfile.info(out / rows(out)[0]["file"]).format == WRITE_FORMATS[f".{kind}"][0]


def test_text_style_history_and_report(folder, checkpoint, tmp_path, capsys):
    history = [{"user": "My dog ran away", "reply": "oh no", "emotion": "sad"}]
    made = [
        {"audio": str(folder / "q00.wav"), "id": "plain"},
        {"audio": str(folder / "q00.wav"), "id": "styled", "style": "serious", "history": history},
        {"audio": "<script>alert(1)</script>.wav", "id": "gone"},
        {"audio": str(folder / "q00.wav"), "id": "wrong", "style": "shouting"},
    ]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    out = tmp_path / "out"
    line = ["batch", str(tmp_path / "list.jsonl"), str(out), "--model", str(checkpoint), "--workers", "1"]
    assert main([*line, "--text-only", "--report"]) == 3
    assert "2 failed" in capsys.readouterr().err
    plain, styled, gone, wrong = rows(out)
    assert styled["style"]["name"] == "serious"
    assert plain["file"] is None
    assert plain["reply"]
    assert "no file" in gone["error"]
    assert "shouting" in wrong["error"]
    assert not list(out.rglob("*.wav"))
    page = (out / "report.html").read_text()
    assert page.count("<tr ") + page.count('<tr class="failed"') >= 4
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


def test_a_read_only_folder_is_refused(folder, checkpoint, tmp_path, monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OutputError, match="may not write there"):
        run(str(folder), tmp_path / "out", Job(str(checkpoint)), ONE)
