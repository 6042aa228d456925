"""Who is told of the floods that have ended connections."""

from __future__ import annotations

import json
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.task import Clock
from twisted.logger import eventAsText, globalLogPublisher

from tests.kit.h2client import frame, h2c_site
from tests.kit.h2raw import HEADERS, PING, POST, RawClient, data, headers
from tests.kit.observing import Details
from upgrade_switch.observe import Status, StatusResource, SwitchLog
from upgrade_switch.testing import talk_to


def site_of(*observers: Any) -> Any:
    return h2c_site(http2_connect=True, reactor=Clock(), observers=observers, head_timeout=60)


def flooded(site: Any) -> RawClient:
    """A client that has been ended for its flood."""
    client = RawClient(site)
    client.send(*[frame(PING, 0, bytes(8))] * 2000)
    assert client.is_over
    return client


def test_counted() -> None:
    """The status page, its JSON and the metrics have them."""
    clock = Clock()
    status = Status(clock)
    site = site_of(status)
    site.resource.putChild(b"status", StatusResource(status))
    for _ in range(3):
        flooded(site)
    assert status.floods == 3
    shown = json.loads(talk_to(site).request(path="/status/json").body)
    assert shown["totals"]["floods"] == 3
    assert [(each["tokens"], each["why"]) for each in shown["declined"]] == [("HTTP/2", "flood")] * 3
    assert shown["declined"][0]["peer"]
    text = talk_to(site).request(path="/status/metrics").body.decode()
    samples = {
        s.name: s.value for family in text_string_to_metric_families(text) for s in family.samples
    }
    assert samples["upgrade_switch_floods_total"] == 3
    assert b"totals.floods" in talk_to(site).request(path="/status/").body


@pytest.mark.parametrize(
    "sent",
    [
        frame(PING, 1, bytes(8)),
        data(3),
        headers(1, POST, end=False) + data(1, b"x", end=True),
        frame(HEADERS, 1, b"")[:12],
    ],
    ids=["broken rule", "broken state", "ordinary", "slow head"],
)
def test_not_counted(sent: bytes) -> None:
    """Other ends are no floods."""
    status = Status(Clock())
    client = RawClient(site_of(status))
    client.send(sent)
    client.site.reactor.advance(61)
    client.leave()
    assert status.floods == 0


def test_logged() -> None:
    """The log has a line a minute, which says how many were left out."""
    lines: list[str] = []

    def observe(event: Any) -> None:
        if event.get("event") == "flooded":
            lines.append(eventAsText(event, includeTimestamp=False, includeSystem=False))

    now = [0.0]
    site = site_of(SwitchLog(lambda: now[0]))
    globalLogPublisher.addObserver(observe)
    try:
        for seconds in (0, 1, 2, 61):
            now[0] = seconds
            flooded(site)
    finally:
        globalLogPublisher.removeObserver(observe)
    assert len(lines) == 2
    assert lines[0].endswith("asked for too much over HTTP/2, and its connection was ended")
    assert lines[1].endswith("(2 more of this kind since the last line)")


def test_other_observers(errors: Any) -> None:
    """An observer that knows nothing of floods hears of none, and nothing is logged."""
    details = Details()
    flooded(site_of(details))
    assert details.declines == []
    assert errors == []
