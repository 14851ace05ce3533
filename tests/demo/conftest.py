"""The demo over the tiny checkpoint, served on this machine; and Chromium with a recording as its microphone."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from omni.turns import Audio, Heard, Plan, Reply, Style, Turn
from tests.tiny import REPOSITORY, SAMPLE_RATE_HZ, make_perception, voiced_clip

WORDS = "my dog ran away"


@pytest.fixture
def turn() -> Turn:
    """A whole exchange."""
    plan = Plan("seeking", "reflection", "sympathizing", "comforting")
    reply = Reply("I am sorry.", plan, Style("comforting", rate=0.9), Audio(voiced_clip(0.5)))
    spent = {"listen": 60.0, "perceive": 15.0, "express": 400.0, "voice": 200.0, "first_sound": 450.0, "total": 675.0}
    return Turn(Heard(WORDS, 0.9), make_perception("sad"), reply, spent)


@pytest.fixture(scope="session")
def hearing(checkpoint: Path) -> Any:
    """An assistant of random weights that always makes out the same words and always replies for five seconds."""
    from omni.assistant import Assistant

    assistant = Assistant.load(checkpoint)
    assistant.parts.listener.decoder.decode = lambda _: Heard(WORDS, 0.9)

    def voice(answers: Any) -> Iterator[np.ndarray]:
        list(answers)
        for _ in range(10):
            yield voiced_clip(0.5)

    assistant.voice = voice  # type: ignore[method-assign]
    return assistant


@pytest.fixture(scope="session")
def visits() -> Any:
    from omni.demo.visits import Visits

    return Visits()


@pytest.fixture(scope="session")
def app(hearing: Any, visits: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The application. What gradio keeps in passing goes to a folder of its own."""
    pytest.importorskip("gradio", reason="needs the demo extra")
    from omni.demo.app import make_app
    from omni.demo.studio import Studio

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        studio = Studio(hearing)
        yield make_app(studio, visits)
        assert studio.worker.close(20)


@pytest.fixture(scope="session")
def site(app: Any) -> Iterator[str]:
    """The address at which the application is served."""
    import uvicorn

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 30
    while not server.started and time.monotonic() < until:
        time.sleep(0.05)
    assert server.started
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join(10)


@dataclass
class Tab:
    """A page, and what it complained about or asked of other machines."""

    page: Any
    complaints: list[str]

    def marks(self) -> list[dict[str, Any]]:
        """What the page's script noted, with the time in milliseconds."""
        return self.page.evaluate("window.omniMarks")

    def wait_for(self, name: str, count: int = 1, timeout_ms: int = 20_000) -> None:
        """Wait until the script noted `name` so many times."""
        script = "([name, count]) => window.omniMarks.filter((m) => m.name === name).length >= count"
        try:
            self.page.wait_for_function(script, arg=[name, count], timeout=timeout_ms)
        except Exception as error:
            raise AssertionError(f"no {name!r} for {timeout_ms} ms, only {self.marks()}") from error

    def wait_for_replies(self, count: int) -> None:
        """Wait until so many whole replies are shown."""
        script = "(count) => document.querySelectorAll('.bubble.omni audio').length === count"
        self.page.wait_for_function(script, arg=count, timeout=20_000)


@pytest.fixture
def browser(site: str, tmp_path: Path) -> Callable[..., Any]:
    """`with browser(sound) as open_tab`: Chromium whose microphone hears `sound` [N] once; each tab is another person."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs Chromium (packages.txt)")

    @contextmanager
    def started(sound: np.ndarray) -> Iterator[Callable[..., Tab]]:
        path = tmp_path / "microphone.wav"
        soundfile.write(path, sound, SAMPLE_RATE_HZ)
        arguments = [
            "--no-sandbox",
            "--use-fake-ui-for-media-stream",
            "--use-fake-device-for-media-stream",
            f"--use-file-for-fake-audio-capture={path}%noloop",
        ]
        with playwright.sync_playwright() as driver:
            program = driver.chromium.launch(executable_path=chromium, args=arguments)

            def open_tab(width: int = 1440, height: int = 900, scheme: str = "light") -> Tab:
                context = program.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
                page, complaints = context.new_page(), list[str]()
                page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
                page.on("pageerror", lambda error: complaints.append(str(error)))
                page.on("request", lambda r: None if _own(r.url, site) else complaints.append(f"asked {r.url}"))
                page.goto(site)
                page.wait_for_selector("#press:not([disabled])", timeout=30_000)
                return Tab(page, complaints)

            yield open_tab
            program.close()

    return started


def _own(url: str, site: str) -> bool:
    return url.startswith((site, "data:", "blob:"))


@pytest.fixture(scope="session")
def spoken() -> Callable[[str], np.ndarray]:
    """Samples [N] of one of the examples by its name."""
    return lambda name: soundfile.read(REPOSITORY / "examples" / f"{name}.wav", dtype="float32")[0]
