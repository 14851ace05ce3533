"""What Prometheus may know: counts and times, never words. Each server has a registry of its own."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 60.0)


class Metrics:
    """Counters and histograms of one server process."""

    def __init__(self, tasks: Callable[[], float], sessions: Callable[[], float]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "omni_requests", "Requests by route and status", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "omni_request_seconds", "Time to the end of a request", ["route"], buckets=SECONDS, registry=self.registry
        )
        self.first_sound = Histogram(
            "omni_first_sound_seconds",
            "From the query's end to the first sound of its reply",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.replies = Counter("omni_replies", "Replies by how they ended", ["status"], registry=self.registry)
        self.refused = Counter("omni_refused", "Refusals by code", ["code"], registry=self.registry)
        gauge = Gauge("omni_tasks", "Calls and replies under way or waiting", registry=self.registry)
        gauge.set_function(tasks)
        gauge = Gauge("omni_sessions", "Conversations now", registry=self.registry)
        gauge.set_function(sessions)

    def text(self) -> bytes:
        """The page that is scraped."""
        return generate_latest(self.registry)
