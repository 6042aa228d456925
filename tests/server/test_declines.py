"""Why an upgrade was declined: for observers, in the log, and what a client learns of it."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.logger import eventAsText, globalLogPublisher

from tests.kit.harness import SOCKETS, EchoTarget, site_of, status, upgrade_head
from tests.kit.memory import Raw
from upgrade_switch import UpgradeResource, upgrade_required
from upgrade_switch.errors import InvalidArgument
from upgrade_switch.observe import Declined, SwitchLog
from upgrade_switch.testing import Recording, talk_to

ECHO: Any = {"echo": Factory.forProtocol(Recording)}


class Declines:
    """Remembers why."""

    def __init__(self) -> None:
        self.seen: list[tuple[Declined, str]] = []

    def switched(self, connection: Any) -> None:
        pass

    def ended(self, connection: Any, seconds: float, reason: Any) -> None:
        pass

    def declined(self, request: Any, token: Any, why: Declined) -> None:
        self.seen.append((why, request.decline_detail))


def failing(request: Any, token: Any) -> Any:
    raise ValueError("no such room")


def late(request: Any, token: Any) -> Any:
    return Deferred()


@pytest.mark.parametrize(
    ("upgrades", "head", "why", "detail"),
    [
        (ECHO, upgrade_head(b"other"), Declined.UNKNOWN, "available: echo"),
        (ECHO, upgrade_head(connection=b"x"), Declined.INELIGIBLE, "Connection does not name upgrade"),
        ({"echo": failing}, upgrade_head(), Declined.FAILED, "ValueError: no such room"),
        ({"echo": lambda r, t: upgrade_required("x")}, upgrade_head(), Declined.ANSWERED, "426 "),
    ],
    ids=["unknown", "ineligible", "failed", "answered"],
)
def test_detail(upgrades: Any, head: bytes, why: Declined, detail: str, errors: Any) -> None:
    """Each request that is declined says why, in words."""
    declines = Declines()
    client = talk_to(site_of(upgrades, reactor=Clock(), observers=[declines]))
    client.send(head)
    assert declines.seen[-1][0] is why
    assert declines.seen[-1][1].startswith(detail)
    errors.clear()


@pytest.mark.parametrize(
    ("limits", "why"),
    [({"max_switched": 1}, Declined.FULL), ({"max_per_address": 1}, Declined.ADDRESS_FULL)],
)
def test_limits(limits: Any, why: Declined) -> None:
    """The limit that was reached is named."""
    declines = Declines()
    site = site_of(ECHO, reactor=Clock(), observers=[declines], **limits)
    for _ in range(2):
        talk_to(site).send(upgrade_head())
    ((declined, detail),) = declines.seen
    assert declined is why
    assert detail == f"{next(iter(limits))} is reached"


def test_time_out_and_client_that_leaves() -> None:
    """So is a decision that took too long, and a client that left before it."""
    declines = Declines()
    site = site_of({"echo": late}, reactor=Clock(), observers=[declines], accept_timeout=5)
    slow, leaving = talk_to(site), talk_to(site)
    slow.send(upgrade_head())
    slow.advance(6)
    leaving.send(upgrade_head())
    leaving.abort()
    assert [why for why, _ in declines.seen] == [Declined.TIMEOUT, Declined.LEFT]
    assert all(detail for _, detail in declines.seen)


def test_log() -> None:
    """The log has a line for each kind a minute, and says how many it left out."""
    lines: list[str] = []

    def observe(event: Any) -> None:
        if event.get("event") == "declined":
            lines.append(eventAsText(event, includeTimestamp=False, includeSystem=False))

    now = [0.0]
    site = site_of(ECHO, reactor=Clock(), observers=[SwitchLog(lambda: now[0])])
    globalLogPublisher.addObserver(observe)
    try:
        client = Raw(site)
        for seconds, token in ((0, b"one"), (1, b"two"), (2, b"three"), (61, b"four")):
            now[0] = seconds
            client.send(upgrade_head(token))
    finally:
        globalLogPublisher.removeObserver(observe)
    assert len(lines) == 2
    assert lines[0].endswith("was not switched to one at /u: unknown token (available: echo)")
    assert lines[1].endswith("(available: echo) (2 more of this kind since the last line)")


# Clients that do not wait for the answer (RFC 9931).


@pytest.mark.parametrize("kind", SOCKETS)
@pytest_twisted.ensureDeferred
async def test_optimistic(listen: Any, kind: str) -> None:
    """Bytes behind a request that has not been answered are refused, if the resource wants it so."""
    asked: list[Any] = []

    def accept(request: Any, token: Any) -> Any:
        asked.append(token)
        return EchoTarget()

    listening = await listen(kind, site_of(UpgradeResource({"echo": accept}, optimistic="refuse")))
    client = await listening.connect()
    client.send(upgrade_head() + b"GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n")
    head, _ = await client.response()
    assert (status(head), asked) == (400, [])
    await client.until(lambda: {"read lost", "lost"} & set(map(str, client.events)))
    assert client.data == b""
    patient_one = await listening.connect()
    patient_one.send(upgrade_head())
    assert status(await patient_one.head()) == 101
    patient_one.send(b"now")
    await patient_one.receives(b"now")


@pytest.mark.parametrize("cut", [None, 1, 50])
@pytest.mark.parametrize("body", [b"", b"some body"])
def test_optimistic_behind_a_body(cut: Any, body: bytes) -> None:
    """A body is not what is behind a request; what comes behind the body is."""
    resource = UpgradeResource(ECHO, optimistic="refuse")
    fields = b"Content-Length: %d\r\n" % len(body)
    for behind, expected in ((b"", 1), (b"x", 0)):
        client = talk_to(site_of(resource, reactor=Clock()), cut=None if behind else cut)
        client.send(upgrade_head(method=b"POST", fields=fields) + body + behind)
        assert len(client.site.switched) == expected


def test_optimistic_elsewhere() -> None:
    """Requests that offer nothing of the resource's may be pipelined."""
    client = Raw(site_of(UpgradeResource(ECHO, optimistic="refuse"), reactor=Clock()))
    client.send(upgrade_head(b"other") + b"GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert client.statuses == [426, 200]


def test_wrong_optimistic() -> None:
    """Anything else is refused when the resource is made."""
    wrong: Any = "perhaps"
    with pytest.raises(InvalidArgument, match="'deliver' or 'refuse'"):
        UpgradeResource(ECHO, optimistic=wrong)


# What a connection is known by.


def test_user() -> None:
    """A connection has the user that was let in; without one, None."""

    def accept(request: Any, token: Any) -> Any:
        request.authenticated_user = "somebody"
        return Recording()

    for acceptor, user in ((accept, "somebody"), (ECHO["echo"], None)):
        client = talk_to(site_of({"echo": acceptor}, reactor=Clock()))
        client.send(upgrade_head())
        (connection,) = client.site.switched
        assert connection.user == user
        assert (connection.bytes_in, connection.bytes_out) == (None, None)
