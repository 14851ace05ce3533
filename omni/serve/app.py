"""The server as an ASGI application: routes, errors, health."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from omni import __version__
from omni.assistant import Assistant
from omni.errors import OmniError
from omni.serve import chat, realtime, speech, transcriptions
from omni.serve.config import ServeConfig
from omni.serve.gate import Gate, answer
from omni.serve.limits import Refusal
from omni.serve.refusals import as_refusal
from omni.serve.service import Service, log


def make_app(assistant: Assistant, config: ServeConfig | None = None) -> FastAPI:
    """The application over an assistant; `app.state.service` is what its routes share."""
    service = Service(assistant, config or ServeConfig())

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.draining = True
        await anyio.to_thread.run_sync(service.worker.close, service.config.shutdown_s)

    app = FastAPI(title="Omni", version=__version__, lifespan=life, docs_url=None, redoc_url=None)
    app.state.service = service
    app.add_middleware(Gate, service=service)
    for part in (chat, speech, transcriptions, realtime):
        app.include_router(part.router)
    _add_errors(app, service)
    _add_state(app, service)
    return app


def _add_errors(app: FastAPI, service: Service) -> None:
    def refused(refusal: Refusal) -> JSONResponse:
        service.metrics.refused.labels(refusal.code).inc()
        return answer(refusal)

    @app.exception_handler(OmniError)
    async def mendable(request: Request, error: OmniError) -> JSONResponse:
        return refused(as_refusal(error))

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(p) for p in first["loc"][1:])
        return refused(Refusal(400, "invalid_request", f"{place or 'the body'}: {first['msg']}", place or None))

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        return refused(Refusal(error.status_code, "invalid_request", f"{request.url.path}: {error.detail}"))

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        log.error("%s failed with %s", request.url.path, type(error).__name__)
        return refused(Refusal(500, "internal_error", "the server failed; its log says with which error"))


def _add_state(app: FastAPI, service: Service) -> None:
    model = {"id": service.name, "object": "model", "created": service.started, "owned_by": "omni"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{name}")
    async def one(name: str) -> dict[str, Any]:
        service.check_model(name)
        return model

    @app.get("/healthz")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz")
    async def ready() -> JSONResponse:
        if service.draining:
            return JSONResponse({"status": "shutting down"}, 503)
        busy = service.worker.tasks >= service.config.most_tasks
        return JSONResponse({"status": "busy" if busy else "ready"}, 503 if busy else 200)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")
