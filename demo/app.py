"""The web application: the page at /, the sounds and exports of a visit, and the socket for live talk."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr
import uvicorn
from fastapi import FastAPI, HTTPException, Response, WebSocket
from fastapi.staticfiles import StaticFiles

from omni.audio.io import encode
from omni.demo import live
from omni.demo.export import folder_name, zipped
from omni.demo.page import Page
from omni.demo.studio import Studio
from omni.demo.visits import Talk, Visit, Visits
from omni.errors import UsageError
from omni.turns import Audio

log = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
_HEAD = '<link rel="stylesheet" href="own/frame.css"><script src="own/live.js" defer></script>'


def make_app(studio: Studio, visits: Visits | None = None) -> FastAPI:
    """The application over a studio. `visits`: where the open tabs are kept (default: a register of its own)."""
    visits = Visits() if visits is None else visits
    app = FastAPI(openapi_url=None)
    app.mount("/own", StaticFiles(directory=STATIC))
    _routes(app, visits)

    @app.websocket("/talk/{token}")
    async def talk(line: WebSocket, token: str) -> None:
        await live.talk(line, studio, visits, token)

    @app.get("/static/js/iframeResizer.contentWindow.min.js")
    def resizer() -> Response:
        """Gradio's page asks for this and does not bring it; it is for pages inside others."""
        return Response("", media_type="text/javascript")

    theme = gr.themes.Base(
        primary_hue="teal", neutral_hue="stone", font=_FONTS, font_mono=("ui-monospace", "monospace")
    )
    largest = f"{int(studio.assistant(studio.first).config.audio.largest_file_mb)}mb"
    return gr.mount_gradio_app(
        app,
        Page(studio, visits).build(),
        path="/",
        theme=theme,
        css_paths=STATIC / "style.css",
        head=_HEAD,
        footer_links=[],
        max_file_size=largest,
        ssr_mode=False,
        show_error=False,
    )


def _routes(app: FastAPI, visits: Visits) -> None:
    def find(token: str, number: int) -> tuple[Visit, Talk]:
        try:
            visit = visits.get(token)
            return visit, visit.talks[number]
        except (UsageError, IndexError) as error:
            raise HTTPException(404, "this page or conversation was forgotten; reload the page") from error

    def sound(audio: Audio | None) -> Response:
        if audio is None:
            raise HTTPException(404, "there is no such sound")
        return Response(encode(audio), media_type="audio/wav", headers={"Cache-Control": "no-store"})

    @app.get("/sound/{token}/again.wav")
    def again(token: str) -> Response:
        return sound(find(token, 0)[0].again)

    @app.get("/sound/{token}/{talk}/{turn}/{who}.wav")
    def said(token: str, talk: int, turn: int, who: str) -> Response:
        _, found = find(token, talk)
        if not 0 <= turn < len(found.queries) or who not in ("you", "omni"):
            raise HTTPException(404, "there is no such sound")
        return sound(found.queries[turn] if who == "you" else found.conversation.turns[turn].reply.audio)

    @app.get("/export/{token}/{talk}.zip")
    def export(token: str, talk: int) -> Response:
        _, found = find(token, talk)
        try:
            data = zipped(found)
        except UsageError as error:
            raise HTTPException(404, str(error)) from error
        headers = {
            "Content-Disposition": f'attachment; filename="omni-{folder_name(found.name)}.zip"',
            "Cache-Control": "no-store",
        }
        return Response(data, media_type="application/zip", headers=headers)


def warning(host: str) -> str | None:
    """What to tell somebody who lets others in; None for this machine alone."""
    if host in _LOOPBACK:
        return None
    return (
        f"everybody who can reach {host} can talk to this program and hear its replies, over a connection that is not "
        "encrypted; browsers give such pages no microphone. Use 127.0.0.1, or put a proxy with HTTPS before it"
    )


def check_free(host: str, port: int) -> None:
    """UsageError, before anything is loaded, for a port that is taken or an address that is not this machine's."""
    if not 1 <= port <= 65_535:
        raise UsageError(f"--port {port} is no port; allowed: 1 to 65535, such as 7860")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise UsageError(f"{host}:{port} cannot be listened on ({error}); choose another --port or --host") from error


def serve(studio: Studio, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serve until interrupted. What gradio keeps in passing lies in a folder that is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="omni-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        uvicorn.run(make_app(studio), host=host, port=port, log_level="warning", ws_max_size=1 << 16)
