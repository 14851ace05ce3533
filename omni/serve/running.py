"""`omni serve`: one process, or several on one port; a shutdown finishes the replies under way."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

import uvicorn
from uvicorn.supervisors import Multiprocess

from omni.assistant import Assistant
from omni.serve.app import make_app
from omni.serve.config import ServeConfig

#: Bytes of one message of a realtime connection.
LARGEST_MESSAGE = 4_000_000


@dataclass(frozen=True)
class Loading:
    """Which assistant to load: a checkpoint, or a preset on a device."""

    model: str | None = None
    preset: str | None = None
    device: str = "auto"

    def load(self) -> Assistant:
        """Load it and run every part once."""
        assistant = Assistant.load(self.model) if self.preset is None else Assistant.of_preset(self.preset, self.device)
        assistant.warm_up()
        return assistant


@dataclass(frozen=True)
class Application:
    """Makes the application in the process that serves it."""

    loading: Loading
    config: ServeConfig

    def __call__(self) -> Any:
        logging.getLogger("omni").setLevel(logging.INFO if self.config.log_text else logging.WARNING)
        return make_app(self.loading.load(), self.config)


class Server(uvicorn.Server):
    """uvicorn's server, which hands out what was begun before it closes connections."""

    async def shutdown(self, sockets: Any = None) -> None:
        """See `Service.drain`."""
        app = self.config.loaded_app
        while app is not None and not hasattr(app, "state"):
            app = getattr(app, "app", None)
        if app is not None:
            await app.state.service.drain()
        await super().shutdown(sockets)


def server_config(app: Any, config: ServeConfig, **more: Any) -> uvicorn.Config:
    """How uvicorn serves an application, or what makes one (`factory=True`)."""
    return uvicorn.Config(
        app,
        host=config.host,
        port=config.port,
        ws_max_size=LARGEST_MESSAGE,
        limit_concurrency=1000,
        timeout_graceful_shutdown=5,
        access_log=False,
        log_level="info",
        server_header=False,
        **more,
    )


def serve(loading: Loading, config: ServeConfig, workers: int = 1) -> None:
    """Serve until told to stop. With several `workers` each loads the weights and has limits and figures of its own."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    given = server_config(Application(loading, config), config, factory=True, workers=workers)
    server = Server(given)
    if workers == 1:
        server.run()
        return
    Multiprocess(given, target=server.run, sockets=[given.bind_socket()]).run()
