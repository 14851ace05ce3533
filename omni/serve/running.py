"""`omni serve`: one process, or several on one port; a shutdown finishes the replies under way."""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.connection
import signal
import socket
from dataclasses import dataclass
from typing import Any

import uvicorn

from omni.assistant import Assistant
from omni.errors import ModelError
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


def server_config(app: Any, config: ServeConfig) -> uvicorn.Config:
    """How uvicorn serves an application."""
    return uvicorn.Config(
        app,
        host=config.host,
        port=config.port,
        ws_max_size=LARGEST_MESSAGE,
        timeout_graceful_shutdown=5,
        access_log=False,
        server_header=False,
    )


def serve(loading: Loading, config: ServeConfig, workers: int = 1) -> None:
    """Serve until told to stop. With several `workers` each loads the weights and has limits and figures of its own.

    ModelError if a process ends by itself; what loading raises.
    """
    if workers == 1:
        return _serve(loading, config)
    shared = server_config(None, config).bind_socket()
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_serve, args=(loading, config, shared)) for _ in range(workers)]
    stopped: list[int] = []

    def stop(number: int, frame: Any) -> None:
        stopped.append(number)
        for process in processes:
            process.terminate()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    for process in processes:
        process.start()
    multiprocessing.connection.wait([process.sentinel for process in processes])
    if not stopped:
        stop(0, None)
    for process in processes:
        process.join()
    if stopped == [0]:
        raise ModelError("a serving process ended by itself; its message is above; serve with --workers 1 to see more")


def _serve(loading: Loading, config: ServeConfig, shared: socket.socket | None = None) -> None:
    logging.getLogger("omni").setLevel(logging.INFO if config.log_text else logging.WARNING)
    server = Server(server_config(make_app(loading.load(), config), config))
    server.run(None if shared is None else [shared])
