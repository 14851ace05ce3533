"""Ray Data does the same groups with the same results, also when a worker is killed amid one."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import soundfile

from omni.batch.job import Job
from omni.batch.ray_engine import Groups, engine
from omni.batch.run import Options, run
from omni.cli import main
from omni.errors import UsageError
from tests.batch.test_run import command, tree
from tests.tiny import SAMPLE_RATE_HZ, voiced_clip

pytest.importorskip("ray", reason="needs ray: pip install 'omni-empathy[scale]'")


@pytest.mark.slow
def test_a_killed_worker_changes_nothing(checkpoint: Path, tmp_path: Path) -> None:
    folder, out, whole = tmp_path / "in", tmp_path / "out", tmp_path / "whole"
    folder.mkdir()
    for number in range(24):
        soundfile.write(folder / f"q{number:02}.wav", voiced_clip(0.8, 100 + 8 * number, number), SAMPLE_RATE_HZ)
    run(str(folder), whole, Job(str(checkpoint)), Options(workers=1))
    process = command(folder, out, checkpoint, "--engine", "ray", "--workers", "2")
    killed = None
    while killed is None and process.poll() is None:
        begun = sorted((out / ".aside").glob("0*.*-*")) if out.exists() else []
        if begun:  # its name says which process makes it
            killed = int(begun[0].name.partition(".")[2].partition("-")[0])
            os.kill(killed, signal.SIGKILL)
        time.sleep(0.002)
    _, told = process.communicate(timeout=120)
    assert killed is not None
    assert killed != process.pid
    assert process.returncode == 0, told.decode()[-2000:]
    assert tree(out) == tree(whole)


def test_problems_come_back_as_they_are(tmp_path: Path) -> None:
    workers = Groups(str(tmp_path), {"model": str(tmp_path / "none"), "suffix": ".wav"}, str(Path.cwd()))
    done = workers({"number": [0], "queries": ["[]"], "again": [False]})
    assert done["number"] == [0]
    assert "ModelError" in done["problem"][0]


def test_addresses_are_checked(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no address"):
        engine("http://host/")
    assert main(["batch", str(tmp_path), str(tmp_path / "out"), "--address", "host:1"]) == 2
