"""The application without a browser: routes, the live line, the command."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gradio", reason="needs the demo extra")

from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from omni.cli import main
from omni.demo.app import check_free, warning
from omni.demo.studio import Studio
from omni.demo.visits import Visit, Visits
from omni.errors import ModelError, UsageError
from omni.turns import Audio, Turn
from tests.demo.conftest import WORDS
from tests.tiny import voiced_clip


@pytest.fixture(scope="module")
def client(app: Any) -> TestClient:
    return TestClient(app, base_url="http://127.0.0.1:7860")


@pytest.fixture
def visit(visits: Visits) -> Iterator[Visit]:
    opened = visits.open()
    yield opened
    visits.close(opened.token)


def blocks(samples: np.ndarray) -> Iterator[bytes]:
    for at in range(0, len(samples), 512):
        yield (samples[at : at + 512] * 32767).astype("<i2").tobytes()


def until(line: Any, kind: str) -> tuple[list[dict[str, Any]], list[tuple[int, int]]]:
    """What the line says up to a message of that type, and (generation, samples) of the pieces that came with it."""
    told, pieces = list[dict[str, Any]](), list[tuple[int, int]]()
    while not told or told[-1]["type"] != kind:
        message = line.receive()
        if message.get("bytes") is not None:
            pieces.append((struct.unpack("<I", message["bytes"][:4])[0], (len(message["bytes"]) - 4) // 2))
        else:
            told.append(json.loads(message["text"]))
            assert told[-1]["type"] != "error" or kind == "error", told[-1]
    return told, pieces


def test_sounds_and_exports_belong_to_who_has_the_token(client: TestClient, visit: Visit, turn: Turn) -> None:
    visit.talk.add(turn, Audio(voiced_clip(0.7)))
    here = f"/sound/{visit.token}/0/0"
    assert len(client.get(f"{here}/you.wav").content) == 44 + 2 * 11_200
    assert client.get(f"{here}/omni.wav").headers["content-type"] == "audio/wav"
    exported = client.get(f"/export/{visit.token}/0.zip")
    assert exported.content[:2] == b"PK"
    assert exported.headers["cache-control"] == "no-store"
    missing = [
        "/sound/nobody/0/0/you.wav", f"/sound/{visit.token}/0/1/you.wav", f"/sound/{visit.token}/7/0/you.wav",
        f"{here}/else.wav", f"/sound/{visit.token}/again.wav", "/export/nobody/0.zip", f"/export/{visit.token}/3.zip",
    ]  # fmt: skip
    assert [client.get(path).status_code for path in missing] == [404] * len(missing)


def test_the_page_brings_all_it_needs(client: TestClient) -> None:
    page = client.get("/").text
    assert "own/live.js" in page
    for address in ("fonts.googleapis", "cdnjs", "unpkg", "jsdelivr"):
        assert address not in page
    for name in ("live.js", "capture-worklet.js"):
        assert client.get(f"/own/{name}").status_code == 200


def test_a_pressed_turn_over_the_live_line(client: TestClient, visit: Visit) -> None:
    sound = voiced_clip(1.5)
    with client.websocket_connect(f"/talk/{visit.token}") as line:
        assert line.receive_json() == {"type": "ready", "rate": 16_000}
        line.send_json({"type": "start", "mode": "press"})
        for block in blocks(sound):
            line.send_bytes(block)
        line.send_json({"type": "commit"})
        told, pieces = until(line, "done")
    assert [m["type"] for m in told][:2] == ["thinking", "heard"]
    assert told[1]["text"] == WORDS
    generation = told[0]["generation"]
    assert {g for g, _ in pieces} == {generation}
    assert sum(n for _, n in pieces) == 80_000
    (said,) = visit.talk.conversation.turns
    assert len(visit.talk.queries[0].samples) == len(sound)
    assert np.abs(visit.talk.queries[0].samples - sound).max() < 1e-3
    assert set(said.timings_ms) == {"hear", "express", "voice", "first_sound", "total"}
    assert said.timings_ms["hear"] + said.timings_ms["express"] <= said.timings_ms["first_sound"]


def test_after_a_cancel_no_stale_piece_comes(client: TestClient, visit: Visit) -> None:
    with client.websocket_connect(f"/talk/{visit.token}") as line:
        line.receive_json()
        generations = []
        for _ in range(3):
            line.send_json({"type": "start", "mode": "press"})
            for block in blocks(voiced_clip(0.6)):
                line.send_bytes(block)
            line.send_json({"type": "commit"})
            told, pieces = until(line, "heard")
            generations.append(next(m["generation"] for m in told if m["type"] == "thinking"))
            assert [g for g, _ in pieces if g != generations[-1]] == []
            line.send_json({"type": "cancel"})
            _, pieces = until(line, "stop")
        line.send_json({"type": "start", "mode": "sing"})
        line.send_json({"type": "sing"})
        _, pieces = until(line, "error")
        assert pieces == []
    assert generations == sorted(set(generations))


@pytest.mark.slow
def test_a_reply_that_leaks_into_the_microphone_never_stops_itself(
    client: TestClient, visit: Visit, hearing: Any, spoken: Callable[[str], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty hands-free turns, each reply coming back 80 ms late at -20 dB."""
    query, reply = spoken("water"), spoken("driving_test")
    monkeypatch.setattr(hearing, "voice", lambda answers: (list(answers), iter([reply]))[1])
    pause, leak = np.zeros(16_000, np.float32), np.concatenate([np.zeros(1280, np.float32), 0.1 * reply])
    told: list[dict[str, Any]] = []
    with client.websocket_connect(f"/talk/{visit.token}") as line:
        line.receive_json()
        line.send_json({"type": "start", "mode": "hands-free"})
        for _ in range(21):  # what the last leak did would be told with the next turn
            for block in blocks(np.concatenate([query, pause])):
                line.send_bytes(block)
            told += until(line, "done")[0]
            for block in blocks(np.concatenate([leak, pause])):
                line.send_bytes(block)
    kinds = [message["type"] for message in told]
    assert (kinds.count("speech"), kinds.count("done"), kinds.count("stop")) == (21, 21, 0)


def test_what_cannot_be_heard_is_a_card_and_the_line_goes_on(client: TestClient, visit: Visit) -> None:
    with client.websocket_connect(f"/talk/{visit.token}") as line:
        line.receive_json()
        for sent in (b"", bytes(3200), bytes(64_001)):
            line.send_json({"type": "start", "mode": "press"})
            line.send_bytes(sent)
            line.send_json({"type": "commit"})
            told, _ = until(line, "error")
            assert 'role="alert"' in told[-1]["card"]
        for nonsense in ("{", "[]", '{"type": "played", "ms": "x"}'):
            line.send_text(nonsense)
            until(line, "error")
        line.send_json({"type": "start", "mode": "press"})
        for block in blocks(voiced_clip(0.6)):
            line.send_bytes(block)
        line.send_json({"type": "commit"})
        until(line, "done")


def test_other_sites_and_strangers_get_no_line(client: TestClient, visit: Visit) -> None:
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect(f"/talk/{visit.token}", headers={"origin": "http://elsewhere.example"}),
    ):
        pass
    with client.websocket_connect("/talk/nobody") as line:
        assert "reload" in line.receive_json()["card"]


def test_a_preset_without_weights_says_how_to_fetch_them(hearing: Any) -> None:
    studio = Studio(hearing)
    try:
        assert studio.presets[0] == "omni-mini"
        assert len(set(studio.presets)) == len(studio.presets)
        assert studio.assistant("omni-mini") is hearing
        with pytest.raises(ModelError, match="omni download"):
            studio.assistant("cascade")
    finally:
        assert studio.worker.close(20)


def test_who_lets_others_in_is_warned() -> None:
    assert warning("127.0.0.1") is warning("localhost") is None
    assert "everybody who can reach 0.0.0.0" in str(warning("0.0.0.0"))


def test_a_taken_port_is_one_line_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("omni.assistant.Assistant.load", lambda *_: pytest.fail("the model was loaded first"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["demo", "--port", str(port)]) == 2
    assert "choose another --port" in capsys.readouterr().err
    for port in (0, 70_000):
        with pytest.raises(UsageError, match="1 to 65535"):
            check_free("127.0.0.1", port)


def test_the_command_serves_what_it_loaded(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    served: list[Any] = []
    monkeypatch.setattr("omni.demo.app.serve", lambda *given: served.append(given))
    monkeypatch.setattr("omni.demo.app.check_free", lambda *given: None)
    assert main(["demo", "--model", str(checkpoint), "--port", "7999", "--host", "0.0.0.0"]) == 0
    ((studio, host, port),) = served
    assert (studio.assistant("omni-mini").config.name, host, port) == ("tiny", "0.0.0.0", 7999)
    out, err = capsys.readouterr()
    assert "http://0.0.0.0:7999" in out
    assert "everybody" in err
    studio.worker.close(20)
