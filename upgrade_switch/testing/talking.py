"""
:func:`talk_to`: joins a client by hand to a site.
"""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.web.resource import IResource

from .._extras import needs_extra
from ..server.site import UpgradeSite
from .client import Client
from .wire import Cut, Wire

__all__ = ["talk_to"]


def talk_to(
    resource: IResource | UpgradeSite,
    cut: Cut = None,
    seed: int | None = None,
    clock: Clock | None = None,
    http2: bool = False,
) -> Client:
    """
    Join a client by hand to a site.

    :param resource: the resource that answers; or a whole site, made with ``reactor=clock``.
    :param cut: the pieces in which bytes arrive, both ways: an int, pieces of one size; a list, pieces
        of these sizes, and then whole; None: as they come.
    :param seed: cut at random, but the same in each run.
    :param clock: the site's clock, a new one by default; ``client.advance`` moves it.
    :param http2: whether they speak HTTP/2. The client's requests are streams of one connection then,
        and its offers are extended CONNECTs (RFC 8441), whose switch is a 200. A whole site has to have
        ``http2_connect=True``.
    :return: the client, connected. With ``http2``, its ``stream`` is the number of the stream that it
        shows, and ``goodbye`` the code of the server's last GOAWAY.
    :raises MissingExtra: if ``http2`` needs an extra that is not installed.
    """
    make: type[Client] = Client
    if http2:
        with needs_extra("http2"):
            from .http2 import StreamClient
        make = StreamClient
    site = resource
    if clock is None:
        # A site that was made with a Clock and its wire share it.
        reactor: object = getattr(site, "reactor", None)
        clock = reactor if isinstance(reactor, Clock) else Clock()
    if not isinstance(site, UpgradeSite):
        site = UpgradeSite(site, reactor=clock, http2_connect=http2)
    wire = Wire(cut, seed, clock)
    client = make(site, wire)
    site.doStart()
    server = site.http2_connection() if http2 else site.buildProtocol(wire.client.getHost())
    wire.join(client, server)
    return client
