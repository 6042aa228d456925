"""
:func:`h2c`: HTTP/2 without TLS, by upgrade and with prior knowledge (RFC 7540 §3.2, RFC 9113 §3.3), on
the site's own HTTP/2. Needs the extra ``http2``.

A site does not have it unless it asks for it. RFC 9113 has dropped the upgrade, and browsers never
spoke it. If a proxy in front of the site passes ``Upgrade: h2c`` on without understanding it, a
stranger gets a connection to this server that the proxy cannot look into, so that none of the proxy's
rules hold. Use it if clients connect directly, or if the proxy is known to remove Upgrade.
"""

from __future__ import annotations

import re
from typing import Any

from twisted.internet.interfaces import IProtocol, IProtocolFactory
from twisted.internet.protocol import Factory
from zope.interface import implementer

from .._extras import needs_extra
from ..fields import connection_options
from ..interfaces import (
    Acceptor,
    IPrefaced,
    ISelective,
    IUpgradeRequest,
    IUpgradeSite,
)
from ..negotiation import UpgradeToken
from ..server.request import UpgradeRequest

with needs_extra("http2"):
    from ..server.http2 import ServerConnection, are_settings

__all__ = ["h2c"]

# RFC 9113 §3.4.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

_SETTINGS = b"HTTP2-Settings"

# RFC 7540 §3.2.1: base64url without padding. A setting has six bytes, which are eight characters here.
# RFC 9113 knows six settings; the limit is there because each costs time.
_BASE64URL = re.compile(rb"(?:[A-Za-z0-9_-]{8}){1,64}\Z")

# Fields about the connection, which HTTP/2 does not have (RFC 9113 §8.2.2, §8.3.1). Expect is among
# them, since the client has had its 100 (Continue).
_LEFT_BEHIND = (
    _SETTINGS,
    b"Connection",
    b"Keep-Alive",
    b"Proxy-Connection",
    b"TE",
    b"Transfer-Encoding",
    b"Expect",
)


def h2c(prior_knowledge: bool = True) -> Acceptor:
    """
    An acceptor for ``UpgradeSite(upgrades={"h2c": h2c()})``. The site's resource tree answers the
    request on stream 1, and all further requests of the connection. The connection stays the site's.

    An offer is ignored if the request does not have exactly one valid ``HTTP2-Settings`` field that
    Connection names (RFC 7540 §3.2.1), and always over TLS. The acceptor can also be a value in
    ``UpgradeSite(prefaces=...)``.

    :param prior_knowledge: whether the site also takes connections that begin with HTTP/2's preface
        (RFC 9113 §3.3).
    :return: the acceptor.
    """
    return _Acceptor(prior_knowledge)


@implementer(ISelective, IPrefaced)
class _Acceptor:
    def __init__(self, prior_knowledge: bool) -> None:
        self.preface = PREFACE if prior_knowledge else None

    def ignores(self, request: IUpgradeRequest) -> bool:
        header = request.requestHeaders.getRawHeaders
        values = header(_SETTINGS) or []
        return not (
            len(values) == 1
            and "http2-settings" in connection_options(header(b"connection") or ())
            and _BASE64URL.match(values[0])
            and are_settings(values[0])
        )

    def __call__(self, request: UpgradeRequest, token: UpgradeToken) -> IProtocol:
        settings = request.requestHeaders.getRawHeaders(_SETTINGS, [b""])[0]
        return ServerConnection(request.site, settings, request.carry(*_LEFT_BEHIND))

    def factory_for(self, site: IUpgradeSite) -> IProtocolFactory:
        return _H2CFactory(site)


class _H2CFactory(Factory):
    noisy = False

    def __init__(self, site: IUpgradeSite) -> None:
        self._site = site

    def buildProtocol(self, addr: object) -> Any:
        return ServerConnection(self._site)
