"""
``upgrade-switch serve``: a site that switches, from the command line.
"""

from __future__ import annotations

import os
import re
from typing import Any
from urllib.parse import unquote_to_bytes

from twisted.internet.endpoints import clientFromString
from twisted.internet.interfaces import IHalfCloseableProtocol, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import LogLevel
from twisted.python.reflect import namedAny
from twisted.python.usage import UsageError
from twisted.web.resource import IResource, Resource
from zope.interface import implementer

from ..errors import InvalidToken, InvalidUpgrades
from ..negotiation import UpgradeToken
from ..protocols.tunnel import TunnelFactory, tunnel
from ..resource import UpgradeResource
from ..site import UpgradeSite
from .exits import USAGE, say
from .listening import Server, begin_logging, server_endpoint, url_of
from .options import CommandOptions
from .page import FrontPage

__all__ = ["ServeOptions", "build_site", "run_serve"]

DEFAULT_LISTEN = "tcp:8080:interface=127.0.0.1"
DRAIN_SECONDS = 5


class ServeOptions(CommandOptions):
    """The options of ``serve``."""

    synopsis = (
        "[--listen ENDPOINT]... [--tunnel 'PATH TOKEN ENDPOINT']... "
        "[--class 'PATH MODULE.CLASS']... [--preface 'PREFACE ENDPOINT']... [--h2c]"
    )
    longdesc = (
        "Without --tunnel: the token echo at /echo. An ENDPOINT is one of Twisted's strings. "
        "Example, SSH through a web server's port: "
        "upgrade-switch serve --listen tcp:8080 --tunnel '/ssh ssh tcp:127.0.0.1:22'. "
        "The same for ssh clients that know nothing of HTTP: "
        "upgrade-switch serve --listen tcp:8080 --preface 'SSH-2.0- tcp:127.0.0.1:22'"
    )
    optFlags = [  # noqa: RUF012 - twisted.python.usage wants a list
        ["h2c", None, "Speak HTTP/2 without TLS as well: by upgrade, and with prior knowledge."],
    ]

    def __init__(self) -> None:
        super().__init__()
        self.listen: list[str] = []
        self.tunnels: list[tuple[str, str, str]] = []
        self.classes: dict[str, str] = {}
        self.origins: list[str] = []
        self.prefaces: dict[bytes, str] = {}

    def opt_listen(self, endpoint: str) -> None:
        """
        Where to listen, as a server endpoint string (tcp:8080:interface=127.0.0.1, unix:/run/x.sock,
        ssl:...); may be given several times. [default: tcp:8080:interface=127.0.0.1]
        """
        self.listen.append(endpoint)

    def opt_tunnel(self, value: str) -> None:
        """
        'PATH TOKEN ENDPOINT': carry upgrades to TOKEN at PATH to a client endpoint string
        (tcp:127.0.0.1:22); may be given several times. With TOKEN websocket, in binary messages, as
        noVNC and other clients in browsers speak them.
        """
        parts = value.split(None, 2)
        if len(parts) != 3 or not _is_path(parts[0]):
            raise UsageError(f"--tunnel wants '/PATH TOKEN ENDPOINT', not {value!r}")
        path, token, endpoint = parts
        try:
            UpgradeToken.parse(token)
        except InvalidToken as error:
            raise UsageError(f"--tunnel {value!r}: {error}") from None
        self.tunnels.append((path.rstrip("/") or "/", token, endpoint))

    def opt_class(self, value: str) -> None:
        """
        'PATH MODULE.CLASS': put a resource (IResource), made by calling the class without arguments,
        at PATH; Python looks for the module where it looks for all (PYTHONPATH). May be given several
        times.
        """
        parts = value.split()
        path = parts[0].rstrip("/") if parts else ""
        if len(parts) != 2 or not _is_path(path):
            raise UsageError(f"--class wants '/PATH MODULE.CLASS', not {value!r}")
        if path in self.classes:
            raise UsageError(f"--class: {path} is here twice")
        self.classes[path] = parts[1]

    def opt_origin(self, origin: str) -> None:
        """
        A page's origin (https://example.com) from which a browser may open the tunnels for
        WebSockets, besides clients that are no browsers; * is any; may be given several times.
        [default: this site's own pages]
        """
        self.origins.append(origin)

    def opt_preface(self, value: str) -> None:
        """
        'PREFACE ENDPOINT': carry connections that begin with PREFACE in place of a request
        (SSH-2.0-) to a client endpoint string; may be given several times. In PREFACE, \\r, \\n,
        \\t, \\xHH and \\\\ are bytes (a space is \\x20); one that ends in its only \\r\\n is
        looked for between two requests, too.
        """
        parts = value.split(None, 1)
        if len(parts) != 2:
            raise UsageError(f"--preface wants 'PREFACE ENDPOINT', not {value!r}")
        preface, endpoint = parts
        key = _unescaped(preface)
        if key in self.prefaces:
            raise UsageError(f"--preface: {preface!r} is here twice")
        self.prefaces[key] = endpoint


def _is_path(text: str) -> bool:
    return text.startswith("/") and not set("?#") & set(text)


_ESCAPE = re.compile(r"\\(?:([rnt\\])|x([0-9A-Fa-f]{2})|)")
_ESCAPED = {"r": b"\r", "n": b"\n", "t": b"\t", "\\": b"\\"}


def _unescaped(text: str) -> bytes:
    """The bytes that a preface on the command line stands for."""
    preface, begun = b"", 0
    for match in _ESCAPE.finditer(text):
        if match[0] == "\\":
            raise UsageError(f"--preface: not an escape that is known here: {text!r}")
        preface += os.fsencode(text[begun : match.start()])
        preface += _ESCAPED[match[1]] if match[1] else bytes.fromhex(match[2])
        begun = match.end()
    return preface + os.fsencode(text[begun:])


@implementer(IHalfCloseableProtocol)
class Echo(Protocol):
    """
    Sends back what it gets: the target of the default site's ``/echo``. It takes half-closes, since
    for a protocol that does not, Twisted drops what is still to be sent when the client's FIN comes.
    """

    transport: Any

    def connectionMade(self) -> None:
        # A client that sends without reading is not read any more, either.
        self.transport.registerProducer(self.transport, True)

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)

    def readConnectionLost(self) -> None:
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        pass


def build_site(reactor: Any, options: ServeOptions) -> UpgradeSite:
    """
    :raises UsageError: where the options contradict one another.
    """
    upgrades: dict[str, dict[str, Any]] = {}
    for path, token, endpoint in options.tunnels:
        known = upgrades.setdefault(path, {})
        if token.lower() in map(str.lower, known):
            raise UsageError(f"--tunnel: {path} has two tunnels for {token}")
        known[token] = _tunnel(token, _client_endpoint(reactor, endpoint), options.origins)
    if not upgrades:
        upgrades["/echo"] = {"echo": Factory.forProtocol(Echo)}
    prefaces = {
        preface: TunnelFactory(reactor, _client_endpoint(reactor, endpoint))
        for preface, endpoint in options.prefaces.items()
    }
    front = FrontPage(
        [(path, token) for path, known in upgrades.items() for token in known],
        list(prefaces),
        list(options.classes),
    )
    root = Resource()
    root.putChild(b"", front)
    resources = {path: _made(name) for path, name in options.classes.items()}
    for path, known in upgrades.items():
        if path in resources:
            raise UsageError(f"--class: {path} is another resource's")
        resources[path] = UpgradeResource(known, front if path == "/" else None)
    # Shorter paths first: what would lie below a resource is found out.
    for path in sorted(resources):
        _put(root, path, resources[path])
    own = {"h2c": _h2c()} if options["h2c"] else {}
    return UpgradeSite(root, reactor=reactor, upgrades=own, prefaces=prefaces)


def _made(name: str) -> IResource:
    """The resource of a class that is called by its name."""
    try:
        resource = namedAny(name)()
    except Exception as error:
        # Its module runs, and its constructor: whatever they raise.
        raise UsageError(f"--class {name}: {type(error).__name__}: {error}") from None
    if not IResource.providedBy(resource):
        raise UsageError(f"--class {name}: makes no resource (IResource): {resource!r}")
    return resource


def _tunnel(token: str, endpoint: IStreamClientEndpoint, origins: list[str]) -> Any:
    """A tunnel; for browsers, which speak nothing else, in WebSocket's binary messages."""
    if token.lower() != "websocket":
        return tunnel(endpoint)
    try:
        from ..protocols.websocket import SAME_ORIGIN, byte_stream
    except ImportError:
        raise UsageError("WebSockets need more: pip install 'upgrade_switch[websocket]'") from None
    try:
        return byte_stream(tunnel(endpoint), origins or SAME_ORIGIN)
    except InvalidUpgrades as error:
        raise UsageError(f"--origin: {error}") from None


def _h2c() -> Any:
    try:
        from ..protocols.h2c import h2c
    except ImportError:
        raise UsageError("--h2c needs more: pip install 'upgrade_switch[http2]'") from None
    return h2c()


def _put(root: Resource, path: str, resource: IResource) -> None:
    """Put a resource at a path, with the directories that it takes."""
    *above, last = map(unquote_to_bytes, path[1:].split("/"))
    parent = root
    for segment in above:
        child = parent.children.get(segment)
        if child is None:
            child = _Directory()
            parent.putChild(segment, child)
        elif not isinstance(child, _Directory):
            raise UsageError(f"{path} lies below another resource's path")
        parent = child
    if last in parent.children and path != "/":
        raise UsageError(f"{path} is another resource's path, too")
    parent.putChild(last, resource)


class _Directory(Resource):
    """Has nothing but what is put below it."""


def _client_endpoint(reactor: Any, description: str) -> IStreamClientEndpoint:
    try:
        endpoint: IStreamClientEndpoint = clientFromString(reactor, description)
    except Exception as error:
        # Every parser raises what it likes: ValueError, TypeError, KeyError, OSError ...
        raise UsageError(f"not a client endpoint: {description!r} ({error})") from None
    return endpoint


def run_serve(options: ServeOptions) -> int:
    """
    Serve until a signal; then stop listening, and let what is switched end.

    :return: the exit code.
    """
    from twisted.internet import reactor as _reactor

    reactor: Any = _reactor
    begin_logging(LogLevel.warn)
    try:
        site = build_site(reactor, options)
        endpoints = [
            (text, server_endpoint(reactor, text)) for text in options.listen or [DEFAULT_LISTEN]
        ]
    except UsageError as error:
        say(f"serve: {error}")
        return USAGE
    server = Server(reactor, site, url_of, lambda: site.drain(DRAIN_SECONDS))
    return server.run(endpoints)
