"""A proxy whose clients speak HTTP/2; its back end speaks HTTP/1.1."""

from __future__ import annotations

import pytest
from h2.errors import ErrorCodes

from tests.kit.backed import Proxied
from tests.kit.h2client import H2Client
from upgrade_switch.protocols import h2c
from upgrade_switch.testing import Wire


class Joined2(H2Client):
    """A client of HTTP/2, in memory."""

    def __init__(self, proxied: Proxied) -> None:
        super().__init__()
        self._net = proxied.net
        self._wire = Wire(clock=proxied.net)
        self._wire.join(self, proxied.site.buildProtocol(self._wire.client.getHost()))
        self.begin()
        self.pump()

    def pump(self) -> None:
        for _ in range(3):
            self._wire.pump()
            self._net.pump()

    def asks(self, path: bytes = b"/u/x", method: bytes = b"GET") -> int:
        stream = self.begin_request(path, method)
        self.flush()
        self.pump()
        return stream


@pytest.mark.parametrize("framing", [b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", b"\r\nhello"])
def test_cut_off(framing: bytes) -> None:
    """
    If an answer ends too early, its stream is reset with an error: with NO_ERROR, clients would take
    what they have got for the whole. The connection goes on.
    """
    proxied = Proxied(site={"upgrades": {"h2c": h2c()}})
    client = Joined2(proxied)
    stream = client.asks()
    proxied.back.last.answer(b"HTTP/1.1 200 OK\r\n" + framing)
    client.pump()
    assert client.body_of(stream) == b"hello"
    proxied.back.last.reset()
    client.pump()
    (end,) = client.broken
    assert (end.stream_id, end.error_code) == (stream, ErrorCodes.INTERNAL_ERROR)
    assert stream not in client.ended
    assert proxied.site.lines == [(200, b"/u/x")]
    stream = client.asks()
    proxied.back.last.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nagain")
    client.pump()
    assert client.body_of(stream) == b"again"
    assert stream in client.ended
    assert not proxied.active()
