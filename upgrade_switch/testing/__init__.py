"""
For tests of upgrades: a client and a server joined in memory, without sockets and, with a ``Clock``,
without a reactor. The bytes are cut wherever a test wants them cut.

The test of an acceptor in five lines::

    def test_room():
        client = talk_to(UpgradeResource({"chat": accept}), cut=1)
        answer = client.offer("chat", b"trailing data", path="/?room=kitchen")
        assert answer.status == 101
        assert client.received == b"welcome to the kitchen"

And of one that takes its time, such as a coroutine that asks a database::

    def test_slow_room():
        client = talk_to(UpgradeResource({"chat": accept_later}))
        client.send_offer("chat")
        assert client.answer is None
        client.advance(seconds=3)
        assert client.answer.status == 101

:func:`talk_to` makes a client by hand; with ``http2=True``, its requests are streams of an HTTP/2
connection (RFC 8441). :class:`MemoryEndpoint` connects real clients (``Agent``, treq,
``UpgradeEndpoint``) to a site. Both are built on :class:`Wire`. Each of its ends is a
:class:`MemoryTransport`, which behaves as Twisted's TCP transports do, and keeps a list of what a
protocol should not do.
"""

from .client import Answer, Client, Recording
from .endpoint import MemoryEndpoint
from .talking import talk_to
from .wire import MemoryTransport, Wire

__all__ = ["Answer", "Client", "MemoryEndpoint", "MemoryTransport", "Recording", "Wire", "talk_to"]
