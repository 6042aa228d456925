"""
Makes the inventories beside it: where the documentation of Twisted, Python and zope.interface has the
names that ours mentions. They are small and in this repository, so that ``make docs`` needs no network.

    python docs/_inventories/make.py

``make docs`` fails on a name that none of them has: add it below, and run this again.
"""

import inspect
import zlib
from pathlib import Path

from twisted.python.reflect import namedAny

TWISTED = [
    "twisted.application.service.IService",
    "twisted.cred.portal.Portal",
    "twisted.internet.address.IPv4Address",
    "twisted.internet.defer.Deferred",
    "twisted.internet.error.ConnectError",
    "twisted.internet.error.ConnectionAborted",
    "twisted.internet.error.ConnectionClosed",
    "twisted.internet.error.DNSLookupError",
    "twisted.internet.error.TimeoutError",
    "twisted.internet.interfaces.IAddress",
    "twisted.internet.interfaces.IConsumer",
    "twisted.internet.interfaces.IDelayedCall",
    "twisted.internet.interfaces.IHalfCloseableProtocol",
    "twisted.internet.interfaces.IHostnameResolver",
    "twisted.internet.interfaces.IListeningPort",
    "twisted.internet.interfaces.IOpenSSLContextFactory",
    "twisted.internet.interfaces.IOpenSSLServerConnectionCreator",
    "twisted.internet.interfaces.IProducer",
    "twisted.internet.interfaces.IProtocol",
    "twisted.internet.interfaces.IProtocolFactory",
    "twisted.internet.interfaces.IPushProducer",
    "twisted.internet.interfaces.IReactorCore",
    "twisted.internet.interfaces.IReactorTCP",
    "twisted.internet.interfaces.IReactorTime",
    "twisted.internet.interfaces.ISSLTransport",
    "twisted.internet.interfaces.IStreamClientEndpoint",
    "twisted.internet.interfaces.IStreamServerEndpoint",
    "twisted.internet.interfaces.ITCPTransport",
    "twisted.internet.interfaces.ITransport",
    "twisted.internet.protocol.Factory",
    "twisted.internet.protocol.Protocol",
    "twisted.internet.ssl.CertificateOptions",
    "twisted.internet.task.Clock",
    "twisted.protocols.policies.TimeoutMixin",
    "twisted.python.failure.Failure",
    "twisted.web.client.Agent",
    "twisted.web.client.HTTPConnectionPool",
    "twisted.web.client.ResponseFailed",
    "twisted.web.http.Request",
    "twisted.web.http_headers.Headers",
    "twisted.web.iweb.IAgent",
    "twisted.web.iweb.IAgentEndpointFactory",
    "twisted.web.iweb.IBodyProducer",
    "twisted.web.iweb.IPolicyForHTTPS",
    "twisted.web.iweb.IRequest",
    "twisted.web.iweb.IResponse",
    "twisted.web.resource.IResource",
    "twisted.web.resource.Resource",
    "twisted.web.server.Site",
]

# By the page of Python's documentation that has them.
PYTHON = {
    "library/constants.html": ["None"],
    "library/exceptions.html": ["Exception", "ImportError", "TypeError", "ValueError"],
    "library/functions.html": ["bool", "bytes", "dict", "float", "int", "object", "str", "tuple"],
    "library/collections.html": ["collections.Counter"],
    "library/collections.abc.html": [
        f"collections.abc.{name}"
        for name in [
            "Callable",
            "Collection",
            "Coroutine",
            "Iterable",
            "Iterator",
            "Mapping",
            "MutableSet",
            "Sequence",
        ]
    ],
    "library/enum.html": ["enum.StrEnum"],
    "library/ipaddress.html": [
        f"ipaddress.{name}" for name in ["IPv4Address", "IPv4Network", "IPv6Address", "IPv6Network"]
    ],
    "library/typing.html": ["typing.Any", "typing.NamedTuple", "typing.TypeAlias"],
}

ZOPE = {"api/declarations.html": ["zope.interface.implementer"]}


def role_of(name):
    """What Sphinx's Python domain calls a thing."""
    thing = namedAny(name if "." in name else f"builtins.{name}")
    if inspect.ismodule(thing):
        return "module"
    if inspect.isclass(thing):
        return "exception" if issubclass(thing, BaseException) else "class"
    if type(thing).__name__ == "InterfaceClass":
        return "class"
    if inspect.isroutine(thing) or type(thing).__name__ == "Method":
        return "function" if inspect.ismodule(namedAny(name.rpartition(".")[0])) else "method"
    return "data"


def pydoctor(name):
    """Where pydoctor, which makes Twisted's documentation, puts a thing."""
    role = role_of(name)
    # It knows no exceptions of their own.
    role = "class" if role == "exception" else role
    parent, _, last = name.rpartition(".")
    return (name, role, f"{name}.html" if role in ("class", "module") else f"{parent}.html#{last}")


def write(path, project, entries):
    """Write an inventory of Sphinx's second version."""
    head = (
        "# Sphinx inventory version 2\n"
        f"# Project: {project}\n"
        "# Version: \n"
        "# The remainder of this file is compressed using zlib.\n"
    )
    body = "".join(f"{name} py:{role} 1 {uri} -\n" for name, role, uri in sorted(entries))
    path.write_bytes(head.encode() + zlib.compress(body.encode(), 9))


def main(folder):
    write(folder / "twisted.inv", "Twisted", map(pydoctor, TWISTED))
    for file, project, pages in (
        ("python.inv", "Python", PYTHON),
        ("zope.inv", "zope.interface", ZOPE),
    ):
        entries = [
            (name, role_of(name), f"{page}#{name}") for page, names in pages.items() for name in names
        ]
        write(folder / file, project, entries)


if __name__ == "__main__":
    main(Path(__file__).parent)
