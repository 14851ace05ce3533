"""A hub of models on this machine, as far as fetching whole models goes: descriptions, listings, files, ranges."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlparse

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """`models` maps names to folders. The first time `cut` is asked for, the connection breaks off half way."""

    models: dict[str, Path]
    cut: str | None = None
    address: str = ""
    asked: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._file(False)

        def do_GET(self) -> None:
            path = urlparse(self.path).path
            hub.asked.append(path)
            about = re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/[^/]+)?", path)
            tree = re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+", path)
            if tree and tree[1] in hub.models:
                self._json(
                    [
                        {"type": "file", "oid": _sha(f), "path": f.name, "size": f.stat().st_size}
                        for f in _files(hub, tree[1])
                    ]
                )
            elif about and about[1] in hub.models:
                files = _files(hub, about[1])
                siblings = [{"rfilename": f.name, "size": f.stat().st_size, "blobId": _sha(f)} for f in files]
                self._json({"id": about[1], "sha": COMMIT, "siblings": siblings})
            elif about or tree:
                self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            else:
                self._file(True)

        def _json(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            for name, text in {
                "Content-Type": "application/json",
                "Content-Length": str(len(body)),
                **(headers or {}),
            }.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(body)

        def _file(self, whole: bool) -> None:
            found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/([^/]+)", urlparse(self.path).path)
            path = hub.models[found[1]] / found[2] if found and found[1] in hub.models else None
            if path is None or not path.is_file():
                self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
                return
            body, begin = path.read_bytes(), 0
            wanted = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if wanted and whole:
                begin = int(wanted[1])
                hub.ranges.append(f"{path.name}:{begin}")
            self.send_response(206 if wanted else 200)
            self.send_header("ETag", f'"{_sha(path)}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(body) - begin))
            if wanted:
                self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
            self.end_headers()
            if not whole:
                return
            if hub.cut == path.name:
                hub.cut = None
                self.wfile.write(body[begin : begin + len(body) // 2])
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            self.wfile.write(body[begin:])

    return Handler


def _files(hub: FakeHub, model: str) -> list[Path]:
    return sorted(p for p in hub.models[model].iterdir() if p.is_file())


def _sha(path: Path) -> str:
    return hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()


@contextmanager
def serving(models: dict[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub of these models, which huggingface_hub asks from now on; `cache` stands in for the user's."""
    from huggingface_hub import constants

    hub = FakeHub(models)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
    monkeypatch.setenv("OMNI_HOME", str(cache / "omni"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
