"""
:class:`MetricsResource`: what a ``Status`` has counted, for Prometheus. (Needs the extra ``metrics``.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from twisted.web.resource import Resource

from .._extras import needs_extra
from .gathering import answered
from .merged import Merged

with needs_extra("metrics"):
    from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from prometheus_client import Metric
    from twisted.web.server import Request

    from ..interfaces import IBackEnd
    from .status import IReading, Status

__all__ = ["MetricsResource", "process_metrics"]

_BACK_END = "upgrade_switch_back_end"
_STATES = ("up", "ejected", "down")
_COUNTED = {
    "requests": "Requests that a back end has had.",
    "upgrades": "Connections that have switched at a back end.",
    "errors": "Requests that got no answer from a back end, or only a part of one.",
}


class MetricsResource(Resource):
    """
    Prometheus' text format (or OpenMetrics', if the client asks for it): connections, declined
    upgrades, and what every process exports (memory, descriptors, CPU).
    """

    isLeaf = True

    def __init__(self, status: Status) -> None:
        super().__init__()
        self._status = status
        self._process = ProcessCollector(registry=None)
        self._platform = PlatformCollector(registry=None)

    def render_GET(self, request: Request) -> int | bytes:
        # As bytes: whoever asks need not write UTF-8.
        accepted = request.getHeader(b"accept") or b""
        encode, content_type = choose_encoder(accepted.decode("latin-1"))
        request.setHeader("content-type", content_type)

        def write(reading: IReading) -> bytes:
            registry = CollectorRegistry()
            registry.register(_Counts(reading))
            if isinstance(reading, Merged):
                registry.register(_Processes(reading.process))
            else:
                registry.register(self._process)
            registry.register(self._platform)
            return encode(registry)

        return answered(request, self._status, write)


def process_metrics() -> dict[str, float]:
    """What this process uses, by the name of the metric."""
    families = ProcessCollector(registry=None).collect()
    return {family.name: family.samples[0].value for family in families}


class _Processes(Collector):
    """What several processes use together."""

    def __init__(self, metrics: Mapping[str, float]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        for name, value in self._metrics.items():
            kind = CounterMetricFamily if name == "process_cpu_seconds" else GaugeMetricFamily
            yield kind(name, "Of all processes together.", value=value)


class _Counts(Collector):
    """Reads a ``Status`` when it is asked."""

    def __init__(self, status: IReading) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        live = GaugeMetricFamily(
            "upgrade_switch_connections", "Connections that are switched now.", labels=["token"]
        )
        for token, count in self._status.live_by_token().items():
            live.add_metric([token], count)
        yield live
        switches = CounterMetricFamily(
            "upgrade_switch_switches", "Connections that have switched.", labels=["token"]
        )
        for token, count in self._status.switches.items():
            switches.add_metric([token], count)
        yield switches
        ends = CounterMetricFamily(
            "upgrade_switch_ends", "Switched connections that are over.", labels=["token", "why"]
        )
        for labels, count in self._status.ends.items():
            ends.add_metric(labels, count)
        yield ends
        declines = CounterMetricFamily(
            "upgrade_switch_declines",
            "Upgrades that were answered in HTTP.",
            labels=["token", "why"],
        )
        for labels, count in self._status.declines.items():
            declines.add_metric(labels, count)
        yield declines
        if self._status.floods:
            yield CounterMetricFamily(
                "upgrade_switch_floods",
                "HTTP/2 connections that were ended since their clients asked for too much.",
                value=self._status.floods,
            )
        counted = CounterMetricFamily(
            "upgrade_switch_bytes",
            "Bytes that targets got (in) and sent (out), if they count them.",
            labels=["token", "direction"],
        )
        for labels, count in self._status.bytes_by_token().items():
            counted.add_metric(labels, count)
        yield counted
        yield from _metrics_of(list(self._status.back_ends()))


def _metrics_of(back_ends: Sequence[tuple[str, IBackEnd]]) -> Iterator[Metric]:
    """What is known of the back ends of reverse proxies; nothing if there are none."""
    if not back_ends:
        return
    labels = ["path", "url"]
    state = GaugeMetricFamily(
        f"{_BACK_END}_state", "1 for the state of a back end, else 0.", labels=[*labels, "state"]
    )
    latency = GaugeMetricFamily(
        f"{_BACK_END}_latency_seconds",
        "How long the head of an answer takes, on average.",
        labels=labels,
    )
    for path, back_end in back_ends:
        for name in _STATES:
            state.add_metric([path, back_end.url, name], float(back_end.state == name))
        if back_end.latency is not None:
            latency.add_metric([path, back_end.url], back_end.latency / 1000)
    yield state
    yield latency
    active = GaugeMetricFamily(
        f"{_BACK_END}_active", "Requests and switched connections of now.", labels=labels
    )
    for path, back_end in back_ends:
        active.add_metric([path, back_end.url], back_end.active)
    yield active
    for name, text in _COUNTED.items():
        counted = CounterMetricFamily(f"{_BACK_END}_{name}", text, labels=labels)
        for path, back_end in back_ends:
            counted.add_metric([path, back_end.url], getattr(back_end, name))
        yield counted
