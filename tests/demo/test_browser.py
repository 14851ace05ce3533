"""The page in a real browser, which hears a recording: an exchange, speaking over the reply, what is broken, two people."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.demo.conftest import WORDS
from tests.tiny import SAMPLE_RATE_HZ

pytestmark = pytest.mark.slow
Browser = Callable[..., Any]
#: A block of the microphone: its level is known when it is whole.
BLOCK_MS = 32


def silence(seconds: float) -> np.ndarray:
    return (1e-4 * np.random.default_rng(0).standard_normal(int(seconds * SAMPLE_RATE_HZ))).astype(np.float32)


def test_hands_free_a_whole_exchange_and_speaking_over_the_reply(
    browser: Browser, spoken: Callable[[str], np.ndarray]
) -> None:
    """The reply is silent within 200 ms of the first sound of speech, and nothing of it is played afterwards."""
    sound = np.concatenate([silence(1.0), spoken("driving_test"), silence(2.2), spoken("water"), silence(20)])
    with browser(sound) as open_tab:
        tab = open_tab()
        tab.page.evaluate("window.omniLevels = []")
        tab.page.get_by_role("switch", name="Hands-free conversation").click()
        tab.wait_for("playing", 2)
        marks, levels = tab.marks(), tab.page.evaluate("window.omniLevels")
        first, second = [m["at"] for m in marks if m["name"] == "playing"]
        assert [m["text"] for m in marks if m["name"] == "heard"] == [WORDS, WORDS]
        onset = next(row["at"] for row in levels if row["at"] > first and row["level"] > 0.01) - BLOCK_MS
        (stopped,) = [m for m in marks if m["name"] == "flushed" and first < m["at"] < second]
        assert onset < stopped["at"]
        assert stopped["at"] + stopped["output_ms"] - onset <= 200
        assert 0 < next(m["played_ms"] for m in marks if m["name"] == "stop") < 5000
        tab.wait_for("finished")  # the second reply is heard to its end
        tab.wait_for_replies(2)
        assert tab.page.locator(".bubble.you .said").all_inner_texts() == [WORDS, WORDS]
        tab.page.get_by_role("switch", name="Hands-free conversation").click()
        assert tab.page.get_by_role("switch").get_attribute("aria-checked") == "false"
        assert tab.complaints == []


def test_press_and_speak_with_the_keyboard_on_a_phone(browser: Browser, spoken: Callable[[str], np.ndarray]) -> None:
    with browser(np.concatenate([spoken("water"), silence(20)])) as open_tab:
        tab = open_tab(390, 844, "dark")
        button = tab.page.locator("#press")
        button.focus()
        tab.page.keyboard.press("Space")
        tab.wait_for("listening")
        assert button.get_attribute("aria-pressed") == "true"
        tab.page.wait_for_timeout(2500)
        tab.page.keyboard.press("Enter")
        tab.wait_for("playing")
        assert button.inner_text() == "Press to stop"
        tab.page.keyboard.press("Enter")
        tab.wait_for("flushed")
        assert button.inner_text() == "Press and speak"
        tab.page.wait_for_function("document.querySelectorAll('.bubble.you').length === 1")
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= 390
        assert tab.complaints == []


def test_a_broken_upload_is_a_card_with_a_remedy_and_the_page_goes_on(
    browser: Browser, clips: dict[str, Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF" + bytes(range(200)))
    with browser(silence(1)) as open_tab:
        tab = open_tab()
        upload = tab.page.locator("input[type=file]")
        for path, says in ((broken, "cannot be heard"), (clips["silent"], "check the microphone")):
            upload.set_input_files(path)
            tab.page.get_by_role("alert").filter(has_text=says).wait_for(timeout=15_000)
        assert "What helps" in tab.page.get_by_role("alert").inner_text()
        upload.set_input_files(clips["low"])
        tab.wait_for_replies(1)
        assert tab.page.get_by_role("alert").count() == 0
        assert tab.page.get_by_role("img", name="Emotions heard").count() == 1
        assert tab.complaints == []


def test_two_people_have_conversations_of_their_own(browser: Browser) -> None:
    with browser(silence(1)) as open_tab:
        one, two = open_tab(), open_tab()
        one.page.get_by_role("button", name="Good news").click()
        two.page.get_by_role("button", name="The letter, sad").click()
        one.wait_for_replies(1)
        two.wait_for_replies(1)
        two.page.get_by_role("button", name="The letter, angry").click()
        two.wait_for_replies(2)
        assert one.page.locator(".bubble.omni").count() == 1
        tokens = {tab.page.locator("#visit").get_attribute("data-token") for tab in (one, two)}
        assert len(tokens) == 2
        assert one.complaints == two.complaints == []


def test_history_is_named_kept_apart_and_exported(browser: Browser) -> None:
    with browser(silence(1)) as open_tab:
        tab = open_tab()
        page = tab.page
        page.get_by_role("button", name="A failed test").click()
        tab.wait_for_replies(1)
        page.get_by_role("button", name="Say it again like this").click()
        page.wait_for_selector("audio.again", timeout=20_000)
        page.get_by_role("button", name="Conversations and preset").click()
        page.get_by_label("New name for it").fill("Test day")
        page.locator("#rename").click()
        page.wait_for_function("document.querySelector('#names input').value === 'Test day'")
        with page.expect_download() as sent:
            page.get_by_role("link", name="Export").click()
        assert sent.value.suggested_filename == "omni-test-day.zip"
        page.locator("#new").click()
        page.wait_for_selector(".dialogue.empty")
        page.locator("#delete").click()
        tab.wait_for_replies(1)
        page.wait_for_function("document.querySelector('#names input').value === 'Test day'")
        assert tab.complaints == []
