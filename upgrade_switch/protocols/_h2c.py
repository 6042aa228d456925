"""
:func:`h2c`: HTTP/2 without TLS, by upgrade and with prior knowledge (RFC 7540 §3.2, RFC 9113 §3.3), on
Twisted's own HTTP/2. Needs the extra ``http2``.

It is off unless asked for. RFC 9113 has dropped the upgrade: browsers never spoke it, and where a proxy
in front passes ``Upgrade: h2c`` on without understanding it, a stranger gets a connection to this
server on which the proxy sees nothing any more, and none of its rules holds. Have it where clients
connect directly, or where the proxy is known to take Upgrade out.
"""

from __future__ import annotations

import re
from typing import Any

from twisted.internet.interfaces import IProtocol, IProtocolFactory
from twisted.internet.protocol import Factory
from zope.interface import implementer

from .._extras import needs_extra
from ..fields import connection_options
from ..interfaces import Acceptor, IDrainable, IPrefaced, ISelective
from ..negotiation import UpgradeToken
from ..server.request import CarriedRequest, UpgradeRequest
from ..server.site import UpgradeSite

with needs_extra("http2"):
    from .._twisted.http2 import HTTP2Connection, are_settings

__all__ = ["h2c"]

# RFC 9113 §3.4.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

_SETTINGS = b"HTTP2-Settings"

# RFC 7540 §3.2.1: base64url without padding. A setting has six bytes, so eight of these; there are six
# settings in RFC 9113, and each costs time.
_BASE64URL = re.compile(rb"(?:[A-Za-z0-9_-]{8}){1,64}\Z")

# RFC 9113 §8.2.2, §8.3.1: fields of the connection that is left. The client has had its 100 (Continue).
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
    An acceptor for ``UpgradeSite(upgrades={"h2c": h2c()})``: the request is answered on stream 1 by
    the site's resource tree, as are all further ones. The connection stays the site's.

    An offer without exactly one valid ``HTTP2-Settings`` that Connection names (RFC 7540 §3.2.1) is
    ignored, as is any over TLS. It can stand in ``UpgradeSite(prefaces=...)``, too.

    :param prior_knowledge: whether connections that begin with HTTP/2's preface are taken as well.
    """
    return _Acceptor(prior_knowledge)


@implementer(ISelective, IPrefaced)
class _Acceptor:
    def __init__(self, prior_knowledge: bool) -> None:
        self.preface = PREFACE if prior_knowledge else None

    def ignores(self, request: UpgradeRequest) -> bool:
        header = request.requestHeaders.getRawHeaders
        values = header(_SETTINGS) or ()
        return not (
            len(values) == 1
            and "http2-settings" in connection_options(header(b"connection") or ())
            and _BASE64URL.match(values[0])
            and are_settings(values[0])
        )

    def __call__(self, request: UpgradeRequest, token: UpgradeToken) -> IProtocol:
        header: Any = request.requestHeaders.getRawHeaders
        settings = header(_SETTINGS)[0]
        carried = request.carry(*_LEFT_BEHIND)
        return _H2C(request.site, settings, _header_list(carried), carried)

    def factory_for(self, site: UpgradeSite) -> IProtocolFactory:
        return _H2CFactory(site)


def _header_list(carried: CarriedRequest) -> list[tuple[bytes, bytes]]:
    """A request as HTTP/2 has it (RFC 9113 §8.3.1)."""
    fields = [(name.lower(), value) for name, value in carried.fields]
    (host,) = (value for name, value in fields if name == b"host")
    return [
        (b":method", carried.method),
        (b":scheme", b"http"),
        (b":authority", host),
        (b":path", carried.target),
        *((name, value) for name, value in fields if name != b"host"),
    ]


@implementer(IDrainable)
class _H2C(HTTP2Connection):
    """HTTP/2 as a target."""


class _H2CFactory(Factory):
    noisy = False

    def __init__(self, site: UpgradeSite) -> None:
        self._site = site

    def buildProtocol(self, addr: object) -> Any:
        return _H2C(self._site)
