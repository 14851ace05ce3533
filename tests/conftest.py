"""Fixtures of the whole suite: no network, one thread, synthetic clips, and a tiny checkpoint of random weights."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import shutil
import socket
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from omni.turns import Audio, Heard, Perception

torch.set_num_threads(1)


# -- rules of the suite ------------------------------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than five seconds; `make unit` leaves it out")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    """With OMNI_REQUIRE_ALL=1 nothing may be skipped: a skip is a failure that says why."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("OMNI_REQUIRE_ALL") == "1":
        report.outcome = "failed"
        report.longrepr = f"OMNI_REQUIRE_ALL=1, but {item.nodeid} was skipped: {report.longrepr}"


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, None]:
    """The same for a file that skips as a whole."""
    outcome = yield
    report = outcome.get_result()
    if report.outcome == "skipped" and os.environ.get("OMNI_REQUIRE_ALL") == "1":
        report.outcome = "failed"
        report.longrepr = f"OMNI_REQUIRE_ALL=1, but {collector.nodeid} was skipped: {report.longrepr}"


class NetworkUsed(RuntimeError):
    """A test tried to reach another machine."""


def _local(address: Any) -> bool:
    return not isinstance(address, tuple) or str(address[0]) in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Connections to anything but this machine fail the test, even where the code would swallow the error."""
    tried: list[Any] = []

    def guarded(real: Callable[..., Any]) -> Callable[..., Any]:
        def connect(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6) and not _local(address):
                tried.append(address)
                raise NetworkUsed(f"a test may not connect to {address}")
            return real(self, address)

        return connect

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, guarded(getattr(socket.socket, name)))
    yield
    assert not tried, f"the test tried to connect to {tried}"


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same start for every test: no settings from the shell, a fixed global seed."""
    for name in ("OMNI_DATA", "OMNI_HOME"):
        monkeypatch.delenv(name, raising=False)
    torch.manual_seed(0)
    if (
        "speechbrain" in sys.modules
    ):  # hypothesis asks every module for its file; its lazy modules would import themselves
        for module in list(sys.modules.values()):
            if type(module).__name__ in ("LazyModule", "DeprecatedModuleRedirect"):
                vars(module).setdefault("__file__", None)


# -- sound -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def voice() -> Audio:
    """A second and a half of something like a voice."""
    from tests.tiny import voiced_clip

    return Audio(voiced_clip())


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small sound files by name: three that can be heard, and some that cannot."""
    from tests.tiny import SAMPLE_RATE_HZ, voiced_clip

    folder = tmp_path_factory.mktemp("clips")
    made = {name: folder / f"{name}.wav" for name in ("low", "high", "flac", "silent", "short")}
    made["flac"] = folder / "other.flac"
    soundfile.write(made["low"], voiced_clip(1.2, 110), SAMPLE_RATE_HZ)
    soundfile.write(made["high"], voiced_clip(1.4, 210, 1), 22_050)
    soundfile.write(made["flac"], voiced_clip(1.0, 160, 2), SAMPLE_RATE_HZ)
    soundfile.write(made["silent"], np.zeros(16_000, np.float32), SAMPLE_RATE_HZ)
    soundfile.write(made["short"], voiced_clip(0.05), SAMPLE_RATE_HZ)
    made["text"] = folder / "text.wav"
    made["text"].write_text("this is not sound\n")
    return made


@pytest.fixture
def perceived() -> Callable[..., Perception]:
    """`tests.tiny.make_perception`."""
    from tests.tiny import make_perception

    return make_perception


# -- a tiny checkpoint of random weights ------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of finished training runs of the tiny sizes. Do not change it."""
    from tests.tiny import write_runs

    folder = tmp_path_factory.mktemp("runs")
    write_runs(folder)
    return folder


@pytest.fixture(scope="session")
def checkpoint(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint folder with very small random weights. Do not change it; see `own_checkpoint`."""
    from omni.packing import pack

    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    pack(runs, folder)
    return folder


@pytest.fixture
def own_checkpoint(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint that a test may damage."""
    return Path(shutil.copytree(checkpoint, tmp_path / "own"))


@pytest.fixture(scope="session")
def assistant(checkpoint: Path) -> Any:
    """The assistant of the tiny checkpoint. It keeps no state; do not change its parts (see `understanding`)."""
    from omni.assistant import Assistant

    return Assistant.load(checkpoint)


@pytest.fixture
def understanding(assistant: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The assistant with a recogniser that always makes out the same words: random weights understand nothing."""
    monkeypatch.setattr(assistant.parts.listener.decoder, "decode", lambda _: Heard("my dog ran away", 0.9))
    monkeypatch.setattr("omni.assistant.speech_likelihood", lambda _: 1.0)
    return assistant
