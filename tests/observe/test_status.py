"""
The status page: what is counted, and how it is shown.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.web.pages import forbidden
from twisted.web.resource import Resource
from twisted.web.test.requesthelper import DummyRequest
from zope.interface import implementer

from tests.kit.calls import Count
from tests.kit.harness import EchoTarget
from upgrade_switch import UpgradeResource, UpgradeSite
from upgrade_switch.connection import SwitchedConnection
from upgrade_switch.interfaces import IBackEnd, ICountsBytes
from upgrade_switch.observe import Status, StatusResource
from upgrade_switch.testing import Client, talk_to

ECHO = Factory.forProtocol(EchoTarget)
JSON = {"Accept": "application/json"}


class Setting:
    """A site with a status page at ``/status``, and as many clients as a test wants."""

    def __init__(self, **kwargs: Any) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000_000)
        self.status = Status(self.clock)
        upgrades = {"echo": ECHO, "no": lambda request, token: forbidden()}
        root = Resource()
        root.putChild(b"u", UpgradeResource(upgrades))
        root.putChild(b"status", StatusResource(self.status))
        self.site = UpgradeSite(root, reactor=self.clock, observers=[self.status], **kwargs)

    def client(self) -> Client:
        return talk_to(self.site, clock=self.clock)

    def get(self, path: str = "/status/json", **headers: str) -> Any:
        return self.client().request(path=path, headers=headers)

    def json(self) -> Any:
        return json.loads(self.get().body)

    def metrics(self) -> dict[tuple[str, ...], float]:
        """What Prometheus' own parser reads: name and labels to value."""
        text = self.get("/status/metrics").body.decode()
        return {
            (sample.name.removeprefix("upgrade_switch_"), *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


def test_connections() -> None:
    """Who is switched is listed with token, path, peer and since when; the newest comes first."""
    setting = Setting()
    first, second = setting.client(), setting.client()
    first.offer("echo/1", path="/u")
    setting.clock.advance(2.5)
    second.offer("echo", path="/u")
    setting.clock.advance(1)
    now = setting.json()
    assert now["now"] == "2001-09-09T01:46:43.500+00:00"
    assert now["since"] == "2001-09-09T01:46:40.000+00:00"
    assert now["switched"] == [
        {
            "token": token,
            "path": "/u",
            "peer": "127.0.0.1:49152",
            "since": f"2001-09-09T01:46:4{begun}+00:00",
            "seconds": seconds,
            "target": "EchoTarget",
            "user": None,
            "bytes_in": None,
            "bytes_out": None,
        }
        for token, begun, seconds in (("echo", "2.500", 1.0), ("echo/1", "0.000", 3.5))
    ]
    assert now["totals"]["live"] == 2
    first.close()
    second.abort()
    totals = setting.json()["totals"]
    assert totals == {
        "live": 0,
        "switched": {"echo": 2},
        "ended": {"echo": {"closed": 1, "reset": 1}},
        "declined": {},
        "bytes": {},
    }


def test_declined() -> None:
    """What was declined is listed with the reason; the latest comes first."""
    setting = Setting()
    client = setting.client()
    client.offer("no", path="/u")
    client.offer("other, another", path="/u")
    client.request(path="/u", headers={"Upgrade": "echo"})
    now = setting.json()
    assert [(r["tokens"], r["why"], r["detail"]) for r in now["declined"]] == [
        ("", "ineligible", "Connection does not name upgrade"),
        ("other, another", "unknown token", "available: echo, no"),
        ("no", "answered", "403 Forbidden"),
    ]
    assert {(r["path"], r["peer"]) for r in now["declined"]} == {("/u", "127.0.0.1:49152")}
    assert now["totals"]["declined"] == {
        "no": {"answered": 1},
        "": {"unknown token": 1, "ineligible": 1},
    }


def test_strangers_names() -> None:
    """Neither many refusals, nor long paths, nor names that clients make up, grow the server."""

    class Anything(Resource):
        isLeaf = True

        def render_GET(self, request: Any) -> int:
            request.switch_to(next(iter(request.offer)), EchoTarget())
            return 1

    setting = Setting()
    setting.site.resource.putChild(b"any", Anything())
    for n in range(150):
        setting.client().offer(f"name{n}", path="/any")
        setting.client().offer("unknown", path=f"/u?{'x' * 5000}")
        setting.client().offer("x" * 5000, path=f"/u/{'x' * 5000}")
    totals = setting.json()["totals"]
    assert len(totals["switched"]) == 100
    assert totals["switched"]["other"] == 51
    assert list(totals["declined"]) == [""]
    refusals = setting.json()["declined"]
    assert len(refusals) == 50
    assert max(len(str(refusal)) for refusal in refusals) < 700


def test_many() -> None:
    """The newest thousand are listed; all are counted."""
    setting = Setting()
    for _ in range(1001):
        setting.client().offer("echo", path="/u")
        setting.clock.advance(1)
    now = setting.json()
    assert (len(now["switched"]), now["totals"]["live"]) == (1000, 1001)
    assert (now["switched"][0]["seconds"], now["switched"][-1]["seconds"]) == (1.0, 1000.0)


def test_forms() -> None:
    """A browser gets a page, who wants JSON gets it, at both addresses; nothing is cached."""
    setting = Setting()
    for path in ("/status", "/status/"):
        page = setting.get(path, Accept="text/html,*/*")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert b"<title>Switched connections</title>" in page.body
        assert "default-src 'none'" in page.headers["content-security-policy"]
        answer = setting.get(path, Accept="application/json")
        assert answer.headers["content-type"] == "application/json"
        assert json.loads(answer.body)["totals"]["live"] == 0
        assert {page.headers["cache-control"], answer.headers["cache-control"]} == {"no-store"}
        assert page.headers["vary"] == answer.headers["vary"] == "Accept"
    assert setting.get("/status/nothing").status == 404
    assert setting.client().request("HEAD", "/status").body == b""
    assert setting.client().request("POST", "/status").status == 405


def test_metrics() -> None:
    """Prometheus reads the same figures."""
    setting = Setting()
    for ending in (Client.close, Client.abort, None):
        client = setting.client()
        client.offer("echo", path="/u")
        if ending is not None:
            ending(client)
    setting.client().offer("no", path="/u")
    read = setting.metrics()
    assert {name: value for name, value in read.items() if not name[0].startswith(("p", "sw_"))} == {
        ("connections", "echo"): 1,
        ("switches_total", "echo"): 3,
        ("ends_total", "echo", "closed"): 1,
        ("ends_total", "echo", "reset"): 1,
        ("declines_total", "no", "answered"): 1,
    }
    assert read["process_open_fds",] > 0
    openmetrics = setting.get("/status/metrics", Accept="application/openmetrics-text")
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
    assert openmetrics.body.endswith(b"# EOF\n")


def test_odd_accept() -> None:
    """Whoever asks for metrics in a form that makes no sense gets them in Prometheus' own."""
    metrics = Setting().site.resource.children[b"status"].children[b"metrics"]
    for accept in (
        b"\xff",
        b"application/openmetrics-text; version=9; escaping=\xff",
        b";;;=,",
        b"x;q=",
    ):
        request: Any = DummyRequest([b""])
        request.requestHeaders.setRawHeaders(b"accept", [accept])
        assert b"upgrade_switch_connections" in metrics.render(request), accept


def test_without_prometheus_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, the page works, and its metrics say what is missing."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "upgrade_switch.metrics", raising=False)
    importlib.invalidate_caches()
    setting = Setting()
    answer = setting.get("/status/metrics")
    assert (answer.status, b"upgrade_switch[metrics]" in answer.body) == (404, True)
    assert setting.get("/status").status == 200


@implementer(ICountsBytes)
class Counting(EchoTarget):
    """Counts what goes through it."""

    bytes_in = bytes_out = 0

    def dataReceived(self, data: bytes) -> None:
        self.bytes_in += len(data)
        self.bytes_out += len(data)
        super().dataReceived(data)


def test_bytes() -> None:
    """Bytes of targets that count them are shown and summed up, of ended connections too."""
    status = Status(Clock())
    site = UpgradeSite(
        UpgradeResource({"echo": Factory.forProtocol(Counting)}), reactor=Clock(), observers=[status]
    )
    first, second = talk_to(site), talk_to(site)
    first.offer("echo", b"12345")
    second.offer("echo", b"123")
    first.close()
    shown = status.as_json()
    assert [(c["bytes_in"], c["bytes_out"]) for c in shown["switched"]] == [(3, 3)]
    assert shown["totals"]["bytes"] == {"echo": {"in": 8, "out": 8}}


def test_bytes_among_many() -> None:
    """How many connections there are whose targets count nothing does not matter to the sum."""
    setting = Setting()
    counting = UpgradeResource({"counting": Factory.forProtocol(Counting)})
    setting.site.resource.putChild(b"counted", counting)
    setting.client().offer("counting", b"123", path="/counted")
    calls = []
    for _ in range(2):
        for _ in range(20):
            setting.client().offer("echo", path="/u")
        count = Count()
        count.of(setting.status.bytes_by_token)
        calls.append(count.calls)
    assert calls[0] == calls[1]
    assert setting.status.bytes_by_token() == {("counting", "in"): 3, ("counting", "out"): 3}


def test_bytes_behind_a_second_switch() -> None:
    """A connection that has switched again is counted by its new target, or no more."""
    status = Status(Clock())
    counting = Counting()
    counting.bytes_in = 5
    connection = SwitchedConnection(StringTransport(), None, b"", 0.0)
    connection.target = counting
    status.switched(connection)
    assert status.bytes_by_token() == {("", "in"): 5, ("", "out"): 0}
    connection.target = EchoTarget()
    status.switched(connection)
    assert status.bytes_by_token() == {}


@implementer(IBackEnd)
class BackEnd:
    """A server behind a proxy, which is not there."""

    def __init__(self, url: str, state: str, count: int, latency: float | None) -> None:
        self.url, self.state, self.latency = url, state, latency
        self.active, self.requests, self.upgrades, self.errors = count, count + 1, count + 2, count + 3


def test_back_ends() -> None:
    """The back ends of proxies are shown as they are when somebody looks, to people and Prometheus."""
    setting = Setting()
    assert "back_ends" not in setting.json()
    assert not [name for name, *_ in setting.metrics() if name.startswith("back_end")]
    behind = [BackEnd("http://a", "up", 1, 12.34567), BackEnd("http://b", "ejected", 5, None)]
    setting.status.show_back_ends("/app", lambda: behind)
    setting.status.show_back_ends("/other", lambda: behind[:1])
    assert [(one["path"], one["url"]) for one in setting.json()["back_ends"]] == [
        ("/app", "http://a"),
        ("/app", "http://b"),
        ("/other", "http://a"),
    ]
    behind.pop(0)
    (shown, _other) = setting.json()["back_ends"]
    assert shown == {
        "path": "/app",
        "url": "http://b",
        "state": "ejected",
        "active": 5,
        "requests": 6,
        "upgrades": 7,
        "errors": 8,
        "latency": None,
    }
    behind.insert(0, BackEnd("http://a", "down", 1, 12.34567))
    assert setting.json()["back_ends"][0]["latency"] == 12.346
    read = setting.metrics()
    assert {name: value for name, value in read.items() if "/app" in name and "http://a" in name} == {
        ("back_end_state", "/app", "up", "http://a"): 0,
        ("back_end_state", "/app", "ejected", "http://a"): 0,
        ("back_end_state", "/app", "down", "http://a"): 1,
        ("back_end_latency_seconds", "/app", "http://a"): pytest.approx(0.01234567),
        ("back_end_active", "/app", "http://a"): 1,
        ("back_end_requests_total", "/app", "http://a"): 2,
        ("back_end_upgrades_total", "/app", "http://a"): 3,
        ("back_end_errors_total", "/app", "http://a"): 4,
    }
    assert ("back_end_latency_seconds", "/app", "http://b") not in read
