"""
Reverse HTTP: a machine behind a firewall, to which nobody can connect, serves a folder. It connects to
a public server and upgrades to PTTH/1.0. From then on it is the server on that connection: the public
server sends it the requests of visitors below /device, one at a time, for up to a minute each.

    export DEVICE_SECRET=what-both-sides-know
    python examples/reverse_http.py serve tcp:8080:interface=127.0.0.1
    python examples/reverse_http.py device http://127.0.0.1:8080/device examples
    curl http://127.0.0.1:8080/device/reverse_http.py
"""

import os
import sys
from hmac import compare_digest

from twisted.application.internet import ClientService
from twisted.internet import endpoints, task
from twisted.internet.defer import Deferred, DeferredLock, succeed
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Protocol
from twisted.web.client import (
    Agent,
    FileBodyProducer,
    HTTP11ClientProtocol,
    HTTPConnectionPool,
    ResponseDone,
)
from twisted.web.http import HTTPChannel
from twisted.web.http_headers import Headers
from twisted.web.pages import errorPage, forbidden
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site
from twisted.web.static import File

from upgrade_switch import UpgradeEndpoint, UpgradeResource, UpgradeSite

UPGRADE = "PTTH/1.0"

#: Hop-by-hop fields (RFC 9110 §7.6.1), and those that are written anew: length and framing.
HOP_BY_HOP = {
    *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade"),
    *(b"content-length", b"transfer-encoding", b"expect"),
}


class Link(HTTP11ClientProtocol):
    """Twisted's HTTP client, on a connection that the device has opened."""

    def __init__(self, device):
        super().__init__()
        self.device = device

    def connectionMade(self):
        super().connectionMade()
        # If the device connects again, it knows better than we do that the old connection is dead.
        old, self.device.link = self.device.link, self
        if old is not None:
            old.transport.abortConnection()
        print("the device is connected", flush=True)

    def connectionLost(self, reason):
        super().connectionLost(reason)
        if self.device.link is self:
            self.device.link = None
            print("the device has gone", flush=True)


class Pool(HTTPConnectionPool):
    """Uses the one connection that is there, and opens none."""

    def __init__(self, reactor, device):
        super().__init__(reactor)
        self.device = device

    def getConnection(self, key, endpoint):
        return succeed(self.device.link)


class Body(Protocol):
    """A response's body on its way to the visitor, no faster than the visitor reads."""

    def __init__(self, request, link):
        self.request = request
        self.ended = Deferred(lambda _: link.transport.abortConnection())

    def connectionMade(self):
        self.request.registerProducer(self.transport, True)

    def dataReceived(self, data):
        self.request.write(data)

    def connectionLost(self, reason):
        if not self.ended.called:
            self.ended.callback(None if reason.check(ResponseDone) else reason)


class Device(Resource):
    """Passes requests on to the device, and its responses back."""

    isLeaf = True

    def __init__(self, reactor, secret):
        super().__init__()
        self.reactor = reactor
        self.secret = f"Bearer {secret}".encode()
        self.link = None
        self.turn = DeferredLock()
        self.agent = Agent(reactor, pool=Pool(reactor, self))

    def accept(self, request, token):
        """The acceptor of the device's upgrade."""
        if not compare_digest(request.getHeader(b"authorization") or b"", self.secret):
            return forbidden()
        return Link(self)

    def render(self, request):
        exchange = self.turn.run(self.begin, request)
        exchange.addErrback(self.failed, request)
        # HTTP/1.1 can cancel a request only by closing the connection; the device connects again.
        request.notifyFinish().addErrback(lambda _: exchange.cancel())
        return NOT_DONE_YET

    def begin(self, request):
        return Deferred.fromCoroutine(self.forward(request)).addTimeout(60, self.reactor)

    async def forward(self, request):
        link = self.link
        if link is None:
            request.render(errorPage(503, "Service Unavailable", "The device is not connected."))
            return
        # As it was sent, not as the resource tree has decoded it.
        path = request.uri.split(b"/", 2)[2:] or [b""]
        has_body = any(map(request.getHeader, (b"content-length", b"transfer-encoding")))
        response = await self.agent.request(
            request.method,
            b"http://device/" + path[0],
            end_to_end(request.requestHeaders),
            FileBodyProducer(request.content) if has_body else None,
        )
        request.setResponseCode(response.code, response.phrase)
        for name, values in end_to_end(response.headers).getAllRawHeaders():
            request.responseHeaders.setRawHeaders(name, values)
        body = Body(request, link)
        response.deliverBody(body)
        await body.ended
        request.unregisterProducer()
        request.finish()

    def failed(self, reason, request):
        if request.channel is None:
            return  # the visitor has left
        print(f"{request.uri!r}: {reason.value!r}", flush=True)
        if request.startedWriting:
            # Half a response must not look like a whole one.
            request.channel.transport.abortConnection()
        else:
            if request.producer is not None:
                request.unregisterProducer()
            request.render(errorPage(502, "Bad Gateway", "The device did not answer."))


def end_to_end(headers):
    """The fields that are forwarded."""
    lines = headers.getRawHeaders(b"connection", [])
    named = {option.strip(b" \t").lower() for line in lines for option in line.split(b",")}
    dropped = HOP_BY_HOP | named
    fields = headers.getAllRawHeaders()
    return Headers({name: values for name, values in fields if name.lower() not in dropped})


class WatchedChannel(HTTPChannel):
    """The device's side of the connection. TCP's keep-alive notices if the server has vanished."""

    def connectionMade(self):
        super().connectionMade()
        self.transport.setTcpKeepAlive(True)


async def serve(reactor, description="tcp:8080:interface=127.0.0.1"):
    device = Device(reactor, os.environ["DEVICE_SECRET"])
    root = Resource()
    root.putChild(b"device", UpgradeResource({UPGRADE: device.accept}, fallback=device))
    port = await endpoints.serverFromString(reactor, description).listen(UpgradeSite(root))
    print(f"listening on {port.getHost()}", flush=True)
    await Deferred()  # forever


async def device(reactor, url, folder):
    fields = {"Authorization": f"Bearer {os.environ['DEVICE_SECRET']}"}
    endpoint = UpgradeEndpoint(reactor, url, UPGRADE, fields)
    # An ordinary site, whose connection may wait forever for its next request.
    site = Site(File(folder), timeout=None)
    site.protocol = WatchedChannel
    service = ClientService(endpoint, site)
    service.startService()  # connects again whenever the connection is lost
    try:
        await service.whenConnected(failAfterFailures=1)
    except ConnectError as error:
        # NotSwitched is a ConnectError, too: the secrets may differ.
        sys.exit(f"reverse_http.py: {error}")
    print(f"serving {folder} at {url}", flush=True)
    await Deferred()  # forever


COMMANDS = {"serve": serve, "device": device}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS or not os.environ.get("DEVICE_SECRET"):
        sys.exit(__doc__)
    task.react(COMMANDS[sys.argv[1]], sys.argv[2:])
