"""
What docs/howto/udp.md says holds, with a small DNS server in place of 9.9.9.9.
"""

from __future__ import annotations

import os
from typing import Any

import pytest_twisted
from twisted.internet.defer import Deferred

from tests.kit.datagrams import CapsuleClient, flow_head
from tests.kit.dns import ADDRESS, NAME, dns_server
from tests.kit.documented import Reader, Session, read, sessions
from tests.kit.foreign import find
from tests.kit.harness import connected, localhost, patient, status
from upgrade_switch.protocols import Destinations, open_udp

__all__ = ["read"]  # a fixture

PAGE = "howto/udp.md"


def commands_of(reader: Reader, dns: int) -> list[Session]:
    """The page's commands, with the port of the DNS server that is here."""
    return [
        session._replace(command=session.command.replace("9.9.9.9:53", f"127.0.0.1:{dns}"))
        for block in reader.blocks("console")
        for session in sessions(block.text)
    ]


@pytest_twisted.ensureDeferred
async def test_command_line(read: Any) -> None:
    """dig gets its answer through the page's forward and the page's serve."""
    find("dig")
    reader = read(PAGE)
    with dns_server() as dns:
        serve, forward, dig = commands_of(reader, dns)
        with reader.serves(serve), reader.serves(forward):
            await reader.types(dig)


def query(name: str) -> bytes:
    """A question for the addresses of a name."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return os.urandom(2) + b"\1\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1"


@pytest_twisted.ensureDeferred
async def test_own_site_and_client(read: Any) -> None:
    """The page's client asks through the page's server; both refuse what is not allowed."""
    reader = read(PAGE)
    reader.runs()
    with dns_server() as dns:
        (serve, *_) = commands_of(reader, dns)
        with reader.serves(serve):
            there: Deferred[bytes] = Deferred()
            asking = reader.names["Ask"](query(NAME), there)
            await patient(
                open_udp(
                    reader.names["UpgradePool"](reader.names["reactor"]),
                    reader.names["PROXY"],
                    "127.0.0.1",
                    dns,
                    asking,
                )
            )
            answer = await patient(there)
            assert answer.endswith(bytes(map(int, ADDRESS.split("."))))
    assert isinstance(reader.names["allowed"], Destinations)
    for host, port, code in (("9.9.9.9", 53, 101), ("127.0.0.1", 443, 403), ("9.9.9.9", 54, 403)):
        client = await connected(localhost(reader.port(8443)), CapsuleClient())
        client.send(flow_head(port, host))
        assert status(await client.head()) == code
        client.transport.abortConnection()
