"""What every request passes before its route: origin, key, rate, size of the body; and what is counted of it."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from omni.serve.config import is_loopback
from omni.serve.limits import Refusal
from omni.serve.service import Service

OPEN = ("/healthz", "/readyz")


class Gate:
    """ASGI middleware around the routes."""

    def __init__(self, app: Any, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        began, status = time.perf_counter(), [0]

        async def noting(message: Any) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
            await send(message)

        try:
            self._check(scope)
        except Refusal as refusal:
            self.service.metrics.refused.labels(refusal.code).inc()
            if scope["type"] == "websocket":
                await _refuse_socket(scope, receive, send, refusal)
            else:
                await answer(refusal)(scope, receive, noting)
        else:
            if scope["type"] == "websocket":
                return await self.app(scope, receive, send)
            self.service.requests += 1
            try:
                await self.app(scope, self._measured(receive), noting)
            finally:
                self.service.requests -= 1
        route = getattr(scope.get("route"), "path", "other")
        self.service.metrics.requests.labels(route, str(status[0])).inc()
        self.service.metrics.seconds.labels(route).observe(time.perf_counter() - began)

    def _check(self, scope: Any) -> None:
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        self._check_origin(headers)
        if scope["path"] in OPEN:
            return
        self.service.keys.check(key_of(headers))
        self.service.rate.check(key_of(headers) or (scope.get("client") or ("local",))[0])
        if self.service.draining:
            raise Refusal(503, "shutting_down", "the server is shutting down; try again later", retry_s=10)
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self.service.config.largest_body_mb * 1e6:
            raise self._too_large()

    def _check_origin(self, headers: dict[str, str]) -> None:
        """Pages of other sites may not use a server that their visitor runs, not even under a name of their own."""
        if self.service.config.keys:
            return
        for name, value in (("Host", headers.get("host")), ("Origin", headers.get("origin"))):
            found = value and urlsplit(value if "//" in value else f"//{value}").hostname
            if value and not (found and is_loopback(found)):
                raise Refusal(
                    403, "forbidden_origin", f"{name} {value[:80]!r}: without an API key only this computer is served"
                )

    def _too_large(self) -> Refusal:
        most = self.service.config.largest_body_mb
        return Refusal(413, "too_large", f"a request may have {most:g} MB; send shorter or compressed sound")

    def _measured(self, receive: Any) -> Any:
        """`receive` that refuses a body once it is too large, whatever its header says."""
        seen = [0]

        async def limited() -> Any:
            message = await receive()
            seen[0] += len(message.get("body", b""))
            if seen[0] > self.service.config.largest_body_mb * 1e6:
                raise HTTPException(413, str(self._too_large()))  # the one kind that FastAPI lets through here
            return message

        return limited


def key_of(headers: dict[str, str]) -> str | None:
    """The API key of a request; browsers, which cannot set headers of a WebSocket, send it as a subprotocol."""
    kind, _, key = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and key:
        return key.strip()
    offered = [name.strip() for name in headers.get("sec-websocket-protocol", "").split(",")]
    return next((n.removeprefix("openai-insecure-api-key.") for n in offered if "api-key." in n), None)


def answer(refusal: Refusal) -> JSONResponse:
    """The refusal as a response."""
    headers = {"Retry-After": str(refusal.retry_s)} if refusal.retry_s else None
    return JSONResponse(refusal.body(), refusal.status, headers)


async def _refuse_socket(scope: Any, receive: Any, send: Any, refusal: Refusal) -> None:
    """Refuse before the handshake, with the same status and body as a request where the server can."""
    await receive()
    if "websocket.http.response" not in scope.get("extensions", {}):
        return await send({"type": "websocket.close", "code": 1008, "reason": str(refusal)[:120]})
    response = answer(refusal)
    headers = [(k, v) for k, v in response.raw_headers]
    await send({"type": "websocket.http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": response.body})
