"""
For tests of upgrades: a client and a server joined in memory, without sockets and, with a ``Clock``,
without a reactor. The bytes are cut wherever a test wants them cut.

In five lines, the test of an acceptor::

    def test_room():
        client = talk_to(UpgradeResource({"chat": accept}), cut=1)
        answer = client.offer("chat", b"trailing data", path="/?room=kitchen")
        assert answer.status == 101
        assert client.received == b"welcome to the kitchen"

:func:`talk_to` is a client by hand. :class:`MemoryEndpoint` connects real clients (``Agent``, treq,
``UpgradeEndpoint``) to a site. Both stand on :class:`Wire`. Each of its ends is a
:class:`MemoryTransport`, which behaves as Twisted's TCP transports do, and keeps a list of what no
protocol should do.
"""

from .client import Answer, Client, Recording, talk_to
from .endpoint import MemoryEndpoint
from .wire import MemoryTransport, Wire

__all__ = ["Answer", "Client", "MemoryEndpoint", "MemoryTransport", "Recording", "Wire", "talk_to"]
