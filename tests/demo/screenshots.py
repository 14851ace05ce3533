"""The pictures of the README, made by hand with the real weights: python -m tests.demo.screenshots [docs/images]."""

from __future__ import annotations

import shutil
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import soundfile
import uvicorn
from playwright.sync_api import Browser, Page, sync_playwright

from omni.assistant import Assistant
from omni.demo.app import make_app
from omni.demo.studio import Studio
from tests.tiny import REPOSITORY, SAMPLE_RATE_HZ

SIZES = {"wide": (1440, 900), "phone": (390, 844)}


def microphone(folder: str) -> Path:
    """Two examples with time for a reply between them, as a recording."""
    quiet = (1e-4 * np.random.default_rng(0).standard_normal(SAMPLE_RATE_HZ)).astype(np.float32)
    said = [
        soundfile.read(REPOSITORY / "examples" / f"{n}.wav", dtype="float32")[0] for n in ("driving_test", "promotion")
    ]
    path = Path(folder) / "microphone.wav"
    soundfile.write(path, np.concatenate([quiet, said[0], *[quiet] * 8, said[1], *[quiet] * 20]), SAMPLE_RATE_HZ)
    return path


def serve() -> str:
    """Serve the shipped weights from a thread; the address."""
    assistant = Assistant.load()
    assistant.warm_up()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(make_app(Studio(assistant)), port=port, log_level="warning"))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.1)
    return f"http://127.0.0.1:{port}/"


def talk(page: Page) -> None:
    """A hands-free conversation of two turns, until the second reply plays."""
    page.get_by_role("switch", name="Hands-free conversation").click()
    page.wait_for_function("window.omniMarks.filter((m) => m.name === 'done').length >= 2", timeout=40_000)
    page.wait_for_function("document.querySelectorAll('.bubble.omni audio').length === 2")
    page.wait_for_timeout(700)


def shoot(browser: Browser, site: str, out: Path) -> None:
    """The talk page, wide and narrow, light and dark; the wide ones whole."""
    for scheme in ("light", "dark"):
        for name, (width, height) in SIZES.items():
            context = browser.new_context(
                viewport={"width": width, "height": height}, color_scheme=scheme, device_scale_factor=1
            )
            page = context.new_page()
            page.goto(site)
            page.wait_for_selector("#press:not([disabled])")
            talk(page)
            page.screenshot(path=out / f"demo-{name}-{scheme}.png", full_page=name == "wide")
            context.close()


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else REPOSITORY / "docs" / "images")
    out.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        arguments = [
            "--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
            f"--use-file-for-fake-audio-capture={microphone(folder)}%noloop",
        ]  # fmt: skip
        site = serve()
        browser = driver.chromium.launch(executable_path=chromium, args=arguments)
        shoot(browser, site, out)
        browser.close()


if __name__ == "__main__":
    main()
