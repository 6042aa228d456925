"""
What several processes have counted is shown as one.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.web.resource import Resource

from tests.kit.harness import EchoTarget
from upgrade_switch import UpgradeResource, UpgradeSite
from upgrade_switch.observe import Status, StatusResource
from upgrade_switch.observe.merged import DIED, Merged, past
from upgrade_switch.observe.metrics import process_metrics
from upgrade_switch.observe.status import IReading
from upgrade_switch.testing import Client, talk_to

ECHO = Factory.forProtocol(EchoTarget)


class Gathering(Status):
    """A status that has to be waited for."""

    def __init__(self, clock: Any) -> None:
        super().__init__(clock)
        self.waiting: list[Deferred[IReading]] = []

    def gather(self) -> Deferred[IReading]:
        self.waiting.append(Deferred())
        return self.waiting[-1]


class Process:
    """A site as one of several processes has it."""

    def __init__(self, began: float) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000_000 + began)
        self.status = Gathering(self.clock)
        root = Resource()
        root.putChild(b"u", UpgradeResource({"echo": ECHO}))
        root.putChild(b"status", StatusResource(self.status))
        self.site = UpgradeSite(root, reactor=self.clock, observers=[self.status], max_switched=2)

    def client(self) -> Client:
        return talk_to(self.site, clock=self.clock)

    def upgraded(self) -> Any:
        client = self.client()
        client.offer("echo", path="/u")
        return client

    def snapshot(self, **process: float) -> Any:
        return json.loads(json.dumps(self.status.snapshot(process)))


def test_sum() -> None:
    """Counts are added, lists are joined, the newest first, and times are those of all."""
    one, two = Process(0), Process(10)
    clients = [one.upgraded(), one.upgraded(), two.upgraded()]
    one.upgraded()
    merged = Merged([one.snapshot(process_open_fds=3), two.snapshot(process_open_fds=4)])
    shown = merged.as_json()
    assert shown["totals"]["live"] == len(shown["switched"]) == len(clients)
    assert shown["totals"]["switched"] == {"echo": 3}
    assert shown["totals"]["declined"] == {"echo": {"full": 1}}
    assert [each["since"] for each in shown["switched"]] == sorted(
        (each["since"] for each in shown["switched"]), reverse=True
    )
    assert shown["since"] == one.snapshot()["since"]
    assert shown["now"] == two.snapshot()["now"]
    assert merged.live_by_token() == Counter(echo=3)
    assert merged.process == {"process_open_fds": 7}


def test_past() -> None:
    """A process that has died leaves what it has counted, and its connections have ended."""
    one, two = Process(0), Process(0)
    clients = [one.upgraded(), two.upgraded()]
    gone = past([one.snapshot(process_cpu_seconds=2, process_open_fds=9)])
    merged = Merged([gone, two.snapshot(process_cpu_seconds=1, process_open_fds=5)])
    assert merged.switches == Counter(echo=len(clients))
    assert merged.live_by_token() == Counter(echo=1)
    assert merged.ends == Counter({("echo", DIED): 1})
    assert merged.process == {"process_cpu_seconds": 3, "process_open_fds": 5}
    # Once gone, it stays so.
    assert Merged([past([gone]), two.snapshot()]).ends == merged.ends


def test_back_ends() -> None:
    """A back end is one, in the worst state that a process has seen."""
    seen = {"path": "/a", "url": "http://b", "requests": 2, "upgrades": 1, "errors": 0, "active": 1}
    snapshots = [Process(0).snapshot() for _ in range(2)]
    for snapshot, state, latency in zip(snapshots, ("up", "down"), (1.0, 3.0), strict=True):
        snapshot["back_ends"] = [{**seen, "state": state, "latency": latency}]
    (shown,) = Merged(snapshots).as_json()["back_ends"]
    assert shown == {
        "path": "/a",
        "url": "http://b",
        "state": "down",
        "active": 2,
        "requests": 4,
        "upgrades": 2,
        "errors": 0,
        "latency": 2.0,
    }


def test_past_of_back_ends() -> None:
    """
    What a process has counted of a back end stays; its state and latency go, and so does a back end
    that no other process has.
    """
    seen = {"path": "/a", "url": "http://b", "requests": 2, "upgrades": 1, "errors": 3, "active": 1}
    gone, lives = Process(0).snapshot(), Process(0).snapshot()
    gone["back_ends"] = [{**seen, "state": "down", "latency": 9.0}]
    gone["back_ends"] += [{**gone["back_ends"][0], "url": "http://c"}]
    lives["back_ends"] = [{**seen, "state": "up", "latency": 1.0}]
    before = json.loads(json.dumps(past([past([gone]), gone])))
    (shown,) = Merged([before, lives]).as_json()["back_ends"]
    counted = {"requests": 6, "upgrades": 3, "errors": 9}
    assert shown == {**seen, **counted, "state": "up", "latency": 1.0}
    # It is back.
    assert len(Merged([before, gone]).as_json()["back_ends"]) == 2


@pytest.mark.parametrize("path", ["/status/json", "/status/metrics"])
def test_pages_wait(path: str) -> None:
    """The answer comes when all has been gathered; a client that has left by then is forgotten."""
    process = Process(0)
    process.upgraded()
    client, left = process.client(), process.client()
    for each in (client, left):
        each.send_request(path=path)
    left.close()
    merged = Merged([process.snapshot(**process_metrics())])
    for waiting in process.status.waiting:
        waiting.callback(merged)
    client.advance(0)
    assert client.answer is not None
    body = client.answer.body
    if path.endswith("json"):
        assert json.loads(body)["totals"]["live"] == 1
    else:
        values = {
            sample.name: sample.value
            for family in text_string_to_metric_families(body.decode())
            for sample in family.samples
        }
        assert values["upgrade_switch_connections"] == 1
        assert values["process_cpu_seconds_total"] > 0
