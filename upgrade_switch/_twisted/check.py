"""
Whether Twisted still has the private names that the modules in this folder use.

Only names and attributes are looked at, which costs next to nothing beside importing them;
``tests/core/test_twisted.py`` looks at what they do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import import_module
from types import CodeType
from typing import Any, NamedTuple

import twisted

from ..errors import UnsupportedTwisted

__all__ = [
    "CLIENT",
    "ENDPOINTS",
    "NEEDED",
    "NEWEST",
    "OLDEST",
    "SERVER",
    "TRANSPORTS",
    "Need",
    "check",
    "missing",
]

#: The oldest Twisted with which the package works. Before it, ``HTTPChannel`` kept bytes that wait
#: behind a body in a place where they cannot be found in time.
OLDEST = (24, 7)

#: The newest with which it has been tested. Later ones are not refused.
NEWEST = (26, 10)


class Need(NamedTuple):
    """What the package needs of a module of Twisted's, or of another library's."""

    module: str
    #: A class or a function, or a class's method.
    owner: str
    #: What the class has, or what the class or the function names in its code.
    names: tuple[str, ...] = ()


# What each part of this folder needs. Those that not every program uses are looked at, like the modules
# that they are about, when they are used: importing all of twisted.web takes longer than anything else.
TRANSPORTS = (
    Need("twisted.internet._newtls", "ConnectionMixin", ("TLS",)),
    Need("twisted.internet.tcp", "Connection", ("_aborting", "logstr")),
    Need("twisted.internet.tcp", "Connection.abortConnection", ("_aborting",)),
    Need("twisted.internet.tcp", "Connection.logPrefix", ("logstr",)),
    Need(
        "twisted.internet.abstract",
        "FileDescriptor",
        (
            "_maybePauseProducer",
            "_tempDataBuffer",
            "_tempDataLen",
            "_writeDisconnecting",
            "bufferSize",
            "connected",
            "dataBuffer",
            "disconnected",
            "disconnecting",
            "offset",
            "producer",
            "producerPaused",
            "streamingProducer",
        ),
    ),
    Need("twisted.internet.tcp", "Connection.doRead", ("bufferSize",)),
    Need("twisted.internet.tcp", "Port.doRead", ("transport",)),
    Need("twisted.internet.unix", "_SendmsgMixin", ("_sendmsgQueue",)),
    Need("twisted.internet.tcp", "Port.startListening", ("_shouldShutdown", "numberAccepts")),
    Need("twisted.protocols.tls", "TLSMemoryBIOProtocol", ("_aborted", "_appSendBuffer")),
    Need("twisted.protocols.tls", "BufferingTLSTransport.__init__", ("_aggregator",)),
    Need("twisted.protocols.tls", "_AggregateSmallWrites.write", ("_buffer",)),
    Need("twisted.protocols.policies", "ProtocolWrapper", ("disconnecting", "wrappedProtocol")),
    Need(
        "twisted.protocols.tls",
        "TLSMemoryBIOProtocol._checkHandshakeStatus",
        ("handshakeCompleted", "wrappedProtocol"),
    ),
)
ENDPOINTS = (
    Need("twisted.internet.endpoints", "TCP4ClientEndpoint", ("_host", "_port")),
    Need("twisted.internet.endpoints", "TCP6ClientEndpoint", ("_host", "_port")),
    Need("twisted.internet.endpoints", "SSL4ClientEndpoint", ("_host", "_port")),
    Need("twisted.internet.endpoints", "UNIXClientEndpoint", ("_path",)),
    Need("twisted.internet.endpoints", "SSL4ServerEndpoint", ("_sslContextFactory",)),
    Need("twisted.internet.endpoints", "_WrapperEndpoint", ("_wrappedEndpoint",)),
    Need("twisted.internet.endpoints", "_WrappingProtocol", ("_wrappedProtocol",)),
)
SERVER = (
    Need("twisted.web.http", "HTTPChannel.allContentReceived", ("_command", "_path", "_version")),
    Need("twisted.web.http", "HTTPChannel.allContentReceived", ("_handlingRequest", "_savedTimeOut")),
    Need("twisted.web.http", "HTTPChannel.allHeadersReceived", ("_send100Continue", "_version")),
    Need("twisted.web.http", "HTTPChannel.lineReceived", ("_command", "_path", "_version")),
    Need("twisted.web.http", "HTTPChannel.pauseProducing", ("_handlingRequest",)),
    Need("twisted.web.http", "HTTPChannel.resumeProducing", ("_handlingRequest",)),
    Need("twisted.web.http", "HTTPChannel.requestDone", ("persistent", "setLineMode")),
    Need("twisted.web.http", "HTTPChannel.connectionMade", ("_NoPushProducer", "_networkProducer")),
    Need("twisted.web.http", "HTTPChannel.rawDataReceived", ("_dataBuffer", "_transferDecoder")),
    Need("twisted.web.http", "Request.finish", ("_cleanup", "_disconnected")),
    Need("twisted.web.server", "Request.write", ("_encoder", "_inFakeHead")),
    Need("twisted.web.http", "_MalformedChunkedDataError"),
    Need("twisted.protocols.basic", "LineReceiver.clearLineBuffer", ("_buffer",)),
    Need("twisted.web.http", "Request.requestReceived", ("_respondToBadRequestAndDisconnect",)),
    Need("twisted.web.http_headers", "Headers", ("_rawHeaders",)),
    Need("twisted.web._auth.wrapper", "HTTPAuthSessionWrapper._loginSucceeded"),
    Need("twisted.web.resource", "_IEncodingResource"),
    Need("twisted.python.components", "Componentized", ("_adapterCache",)),
    Need("twisted.web.server", "Request.finish", ("_encoder",)),
)
CLIENT = (
    Need("twisted.web._newclient", "HTTP11ClientProtocol.request", ("HTTPClientParser", "_parser")),
    Need("twisted.web._newclient", "HTTPClientParser.allHeadersReceived"),
    Need("twisted.web._newclient", "Request.writeTo"),
    Need("twisted.web._newclient", "ParseError"),
    Need("twisted.web.client", "HTTPConnectionPool", ("_factory",)),
    Need("twisted.web.client", "_HTTP11ClientFactory", ("_quiescentCallback",)),
)
NEEDED = (*TRANSPORTS, *ENDPOINTS, *SERVER, *CLIENT)


_TESTED = "which is tested with Twisted {}.{} to {}.{}".format(*OLDEST, *NEWEST)


def check(needs: Iterable[Need]) -> None:
    """
    Look for what is needed of Twisted.

    :raises UnsupportedTwisted: this Twisted is older than :data:`OLDEST`, or some of it is not there.
    """
    major, minor = twisted.__version__.split(".")[:2]
    if (int(major), int(minor)) < OLDEST:
        raise UnsupportedTwisted(
            f"Twisted {twisted.__version__} is too old for upgrade_switch, {_TESTED}"
        )
    names = missing(needs)
    if names:
        raise UnsupportedTwisted(
            f"Twisted {twisted.__version__} does not fit upgrade_switch, {_TESTED}; "
            f"this one has no {', '.join(names)}"
        )


def missing(needs: Iterable[Need]) -> list[str]:
    """What is not there, each once."""
    return list(dict.fromkeys(what for need in needs for what in _missing(need)))


def _missing(need: Need) -> Iterator[str]:
    try:
        found: Any = import_module(need.module)
    except ModuleNotFoundError as error:
        if error.name is None or not need.module.startswith(error.name):
            # It is there, and imports something else that is not.
            raise
        yield need.module
        return
    path = need.module
    for name in need.owner.split("."):
        path = f"{path}.{name}"
        found = getattr(found, name, None)
        if found is None:
            yield path
            return
    there = _names(found) if need.names else frozenset()
    yield from (f"{path}: {name}" for name in need.names if name not in there)


def _names(found: object) -> set[str]:
    """What a class has, and what its methods, or what a function, names in its code."""
    if not isinstance(found, type):
        return _names_in(found)
    names = set(dir(found))
    for cls in found.__mro__:
        for value in vars(cls).values():
            names |= _names_in(value)
    return names


def _names_in(function: object) -> set[str]:
    function = getattr(function, "__wrapped__", function)
    code = getattr(function, "__code__", None)
    return set(code.co_names) if isinstance(code, CodeType) else set()
