"""What ``/metrics`` shows, for Prometheus."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from afina.model.generate.request import Produced

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """Counters of one server; a registry of its own, so that two servers in a process do not mix.

    Args:
        running, waiting: ask the engine for its places.
    """

    def __init__(self, running: Callable[[], float], waiting: Callable[[], float]) -> None:
        self.registry = CollectorRegistry()
        own = {"registry": self.registry}
        self.requests = Counter("afina_requests", "Answers by how they ended.", ["model", "finish"], **own)
        self.read = Counter("afina_prompt_tokens", "Tokens read.", ["model"], **own)
        self.written = Counter("afina_generation_tokens", "Tokens written.", ["model"], **own)
        self.first = Histogram("afina_first_token_seconds", "Until the first token.", buckets=SECONDS, **own)
        self.seconds = Histogram("afina_request_seconds", "Until the last token.", buckets=SECONDS, **own)
        Gauge("afina_requests_running", "Requests in a place.", **own).set_function(running)
        Gauge("afina_requests_waiting", "Requests without a place yet.", **own).set_function(waiting)

    @contextlib.contextmanager
    def request(self, model: str) -> Iterator[Callable[[Produced], None]]:
        """Watch an answer: give every piece to what is yielded."""
        started, finish, first = time.perf_counter(), "cancelled", True

        def seen(piece: Produced) -> None:
            nonlocal first, finish
            if first:
                self.first.observe(time.perf_counter() - started)
                first = False
            self.written.labels(model).inc(len(piece.tokens))
            if piece.done is not None:
                finish = piece.done.finish
                self.read.labels(model).inc(piece.done.prompt_tokens)

        try:
            yield seen
        except Exception:
            finish = "error"
            raise
        finally:
            self.requests.labels(model, finish).inc()
            self.seconds.observe(time.perf_counter() - started)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
