"""
Servers that are wrong in one thing each, and the checks of ``probe --conformance`` that find it.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import takewhile
from select import select

from tests.kit.switching import (
    Client,
    Fields,
    Left,
    Refusal,
    Request,
    SwitchingServer,
    WebSocketServer,
)

__all__ = [
    "FAULTY",
    "ClosesPolitely",
    "Faulty",
    "ForgetfulServer",
    "HangsUpOnEarlyBytes",
    "HangsUpOnEarlyFrames",
    "HastyServer",
    "NeverSwitches",
    "RefusesEarlyBytes",
    "SwitchesBeforeTheContent",
    "SwitchesPlainRequests",
]


@dataclass(frozen=True)
class Faulty:
    """A server, and the checks that it fails."""

    server: type[SwitchingServer]
    fails: frozenset[str]
    maybe: frozenset[str]
    """Checks that it fails or passes, as its bytes come."""
    is_silent: bool
    """Whether it lets the checks that it fails wait."""
    jobs: int


FAULTY: list[Faulty] = []

Kind = type[SwitchingServer]


def fails(
    *checks: str, maybe: Collection[str] = (), silent: bool = False, jobs: int = 4
) -> Callable[[Kind], Kind]:
    """
    A server that fails these checks. Its docstring says what is wrong.

    :param jobs: how many checks may talk to it at once.
    """

    def add(server: Kind) -> Kind:
        FAULTY.append(Faulty(server, frozenset(checks), frozenset(maybe), silent, jobs))
        return server

    return add


# Bytes of the new protocol that come in one segment with the end of a request.
EARLY_FRAMES = (
    "trailing-data-100-kb",
    "trailing-data-in-segment",
    "trailing-data-split-at-seam",
)

# The same, where the target echoes.
EARLY = (
    *EARLY_FRAMES,
    "half-close-behind-request",
    "trailing-data-any-bytes",
    "trailing-data-empty-lines",
    "trailing-data-like-http",
)

# A server may close the connection in front of these, or where there is content.
EARLY_BEHIND_OTHERS = (
    "expect-continue",
    "pipelined-trailing-data",
    "trailing-data-behind-chunks",
    "trailing-data-behind-late-content",
    "trailing-data-behind-length",
)

# A server may read these together with the request, or later.
LATER = ("trailing-data-while-deciding",)


# Trailing data.


@fails(*EARLY, *EARLY_BEHIND_OTHERS, maybe=LATER, silent=True)
class LosesTrailingData(SwitchingServer):
    """What was read with the request is lost."""

    def takes_over(self, client: Client) -> None:
        client.buffer = b""
        super().takes_over(client)


@fails(*EARLY, *EARLY_BEHIND_OTHERS, maybe=LATER)
class RepeatsTrailingData(SwitchingServer):
    """What was read with the request is delivered twice."""

    def takes_over(self, client: Client) -> None:
        client.buffer *= 2
        super().takes_over(client)


@fails(
    *(name for name in EARLY if name not in ("half-close-behind-request", "trailing-data-100-kb")),
    *EARLY_BEHIND_OTHERS,
    maybe=LATER,
    silent=True,
)
class KeepsTrailingDataBack(SwitchingServer):
    """What was read with the request is delivered only with the next bytes."""

    def takes_over(self, client: Client) -> None:
        if client.buffer and (more := client.socket.recv(65536)):
            client.buffer += more
        super().takes_over(client)


@fails(*EARLY, maybe=LATER)
class HangsUpOnEarlyBytes(SwitchingServer):
    """Bytes behind a request that could switch are a reason to hang up."""

    def read_content(self, client: Client, request: Request) -> None:
        super().read_content(client, request)
        if client.buffer and any(map(self.knows, self.offered(request))):
            raise Left


@fails("trailing-data-like-http", silent=True)
class ReadsRequestsBehindTheUpgrade(SwitchingServer):
    """Trailing data that looks like a request is taken for one."""

    def takes_over(self, client: Client) -> None:
        if client.buffer.startswith(b"GET "):
            client.until(b"\r\n\r\n")
        super().takes_over(client)


@fails("trailing-data-empty-lines")
class SkipsEmptyLines(SwitchingServer):
    """Empty lines behind the request are skipped."""

    def takes_over(self, client: Client) -> None:
        client.buffer = client.buffer.lstrip(b"\r\n")
        super().takes_over(client)


@fails("trailing-data-any-bytes")
class TakesBytesForText(SwitchingServer):
    """Trailing data is decoded as UTF-8."""

    def takes_over(self, client: Client) -> None:
        client.buffer = client.buffer.decode("utf-8", "ignore").encode()
        super().takes_over(client)


@fails("trailing-data-100-kb")
class KeepsAFewKilobytes(SwitchingServer):
    """There is room for 16 KiB behind the request."""

    def takes_over(self, client: Client) -> None:
        client.buffer = client.buffer[:16384]
        super().takes_over(client)


@fails(
    "expect-continue",
    "trailing-data-behind-chunks",
    "trailing-data-behind-late-content",
    "trailing-data-behind-length",
)
class TakesContentForTrailingData(SwitchingServer):
    """The content of a request that switches is given to the target."""

    def read_content(self, client: Client, request: Request) -> None:
        if not any(map(self.knows, self.offered(request))):
            super().read_content(client, request)
        elif request.all("expect"):
            client.send(b"HTTP/1.1 100 Continue\r\n\r\n")


@fails("trailing-data-behind-chunks", "unknown-token-with-chunks")
class KnowsNoChunks(SwitchingServer):
    """Chunked content is not read."""

    def read_chunks(self, client: Client) -> None:
        pass


# Choosing.


@fails("connection-list", "connection-lines", "connection-empty-elements", "connection-close")
class TakesConnectionForAWord(SwitchingServer):
    """Connection is compared as a whole."""

    def options(self, request: Request) -> list[str]:
        return [value.lower() for value in request.all("connection")[:1]]


@fails("connection-lines")
class LooksAtTheFirstConnection(SwitchingServer):
    """Only the first line of Connection counts."""

    def options(self, request: Request) -> list[str]:
        lines = [("connection", value) for value in request.all("connection")[:1]]
        return super().options(Request("", "", "", lines))


@fails("connection-lines")
class LooksAtTheLastConnection(SwitchingServer):
    """Only the last line of Connection counts."""

    def options(self, request: Request) -> list[str]:
        lines = [("connection", value) for value in request.all("connection")[-1:]]
        return super().options(Request("", "", "", lines))


@fails("connection-case")
class ComparesOptionsWithCase(SwitchingServer):
    """Connection has to be spelled as this server spells it."""

    def options(self, request: Request) -> list[str]:
        return [option.replace("Upgrade", "upgrade") for option in request.elements("connection")]


@fails("connection-empty-elements")
class StopsAtEmptyOptions(SwitchingServer):
    """An empty element ends the list of Connection."""

    def options(self, request: Request) -> list[str]:
        elements = ",".join(request.all("connection")).lower().split(",")
        return [*takewhile(bool, (element.strip(" \t") for element in elements))]


@fails("connection-close")
class ClosesFirst(SwitchingServer):
    """A request with close is never switched."""

    def offered(self, request: Request) -> list[str]:
        return [] if "close" in self.options(request) else super().offered(request)


@fails("connection-other-option")
class SearchesInConnection(SwitchingServer):
    """Upgrade may stand anywhere in the value of Connection."""

    def options(self, request: Request) -> list[str]:
        options = super().options(request)
        return [*options, "upgrade"] if "upgrade" in "".join(options) else options


@fails("connection-missing", "connection-other-option")
class IgnoresConnection(SwitchingServer):
    """Upgrade alone is enough."""

    def options(self, request: Request) -> list[str]:
        return [*super().options(request), "upgrade"]


@fails(
    "upgrade-unknown-first",
    "upgrade-unknown-behind",
    "upgrade-lines",
    "upgrade-versions",
    "upgrade-empty-elements",
)
class TakesUpgradeForAWord(SwitchingServer):
    """Upgrade is compared as a whole."""

    def offered(self, request: Request) -> list[str]:
        return request.all("upgrade")[:1] if super().offered(request) else []


@fails("upgrade-unknown-first", "upgrade-lines", "upgrade-versions")
class LooksAtTheFirstToken(SwitchingServer):
    """Only the first token counts."""

    def offered(self, request: Request) -> list[str]:
        return super().offered(request)[:1]


@fails("upgrade-lines")
class LooksAtTheFirstUpgrade(SwitchingServer):
    """Only the first line of Upgrade counts."""

    def offered(self, request: Request) -> list[str]:
        others = [(name, value) for name, value in request.fields if name != "upgrade"]
        lines = [("upgrade", value) for value in request.all("upgrade")[:1]]
        return super().offered(Request("", "", request.version, others + lines))


@fails("upgrade-versions")
class KnowsNoVersions(SwitchingServer):
    """A list with versions is no offer."""

    def offered(self, request: Request) -> list[str]:
        tokens = super().offered(request)
        return [] if any("/" in token for token in tokens) else tokens


@fails("upgrade-case")
class ComparesTokensWithCase(SwitchingServer):
    """The token has to be spelled as this server spells it."""

    def knows(self, token: str) -> bool:
        return token == self.token


@fails("upgrade-other-name")
class ComparesTheBeginning(SwitchingServer):
    """A token that begins like the known one is taken for it."""

    def knows(self, token: str) -> bool:
        return token.lower().startswith(self.token)


@fails("upgrade-bad-grammar")
class ReadsAnyGrammar(SwitchingServer):
    """What stands around a token is thrown away."""

    def offered(self, request: Request) -> list[str]:
        if "upgrade" not in self.options(request) or request.version != "HTTP/1.1":
            return []
        return [token.strip('"').partition(";")[0] for token in request.elements("upgrade")]


@fails(
    "refused-pipelined",
    "refused-stays-open",
    "refused-then-upgrade",
    "unknown-token-with-chunks",
    "unknown-token-with-content",
    "upgrade-other-name",
    "upgrade-unknown",
    "upgrade-unknown-ignored",
)
class SwitchesToAnything(SwitchingServer):
    """Whatever is asked for is promised."""

    def knows(self, token: str) -> bool:
        return True


@fails("upgrade-nothing")
class SwitchesWithoutAnOffer(SwitchingServer):
    """Connection: Upgrade alone is enough."""

    def chosen(self, request: Request) -> str:
        if "upgrade" in self.options(request) and not "".join(request.all("upgrade")):
            return self.token
        return super().chosen(request)


@fails("upgrade-unknown-ignored")
class RefusesUnknownTokens(SwitchingServer):
    """An unknown token is an error."""

    def chosen(self, request: Request) -> str:
        if self.offered(request) and not any(map(self.knows, self.offered(request))):
            raise Refusal(400)
        return super().chosen(request)


# Requests.


@fails("http-1.0")
class SwitchesHTTP10(SwitchingServer):
    """HTTP/1.0 is switched, too."""

    def offered(self, request: Request) -> list[str]:
        return super().offered(Request("", "", "HTTP/1.1", request.fields))


@fails("host-missing")
class NeedsNoHost(SwitchingServer):
    """Host may be left out."""

    def check_host(self, hosts: list[str]) -> None:
        super().check_host(hosts or ["any"])


@fails("host-twice")
class TakesTheFirstHost(SwitchingServer):
    """There may be several Host lines."""

    def check_host(self, hosts: list[str]) -> None:
        super().check_host(hosts[:1])


@fails("host-bad")
class TakesAnyHost(SwitchingServer):
    """Host may be anything."""

    def check_host(self, hosts: list[str]) -> None:
        super().check_host(["any" for _ in hosts])


@fails("absolute-form", "absolute-form-other-host")
class KnowsNoURLs(SwitchingServer):
    """A target in absolute-form is not found."""

    def check_target(self, request: Request) -> None:
        if not request.target.startswith("/"):
            raise Refusal(404)


@fails("absolute-form-other-host")
class ComparesURLAndHost(SwitchingServer):
    """A target in absolute-form has to have the Host's authority."""

    def check_target(self, request: Request) -> None:
        if "://" in request.target and request.target.split("/")[2] not in request.all("host"):
            raise Refusal(400)


@fails("split-request", maybe=["trailing-data-split-at-seam"])
class NeedsWholeHeads(SwitchingServer):
    """A head that does not come whole is an error."""

    def exchange(self, client: Client) -> bool:
        client.buffer = client.read()
        if client.buffer and b"\r\n\r\n" not in client.buffer:
            self.refuse(client, "GET", Refusal(400), closes=True)
            return False
        return super().exchange(client)


@fails("empty-line-in-front")
class TripsOverEmptyLines(SwitchingServer):
    """An empty line in front of a request is an error."""

    def parse(self, head: bytes) -> Request:
        if head.startswith(b"\r\n"):
            raise Refusal(400)
        return super().parse(head)


@fails("space-before-colon")
class StripsNames(SwitchingServer):
    """Spaces between a field's name and its colon are thrown away."""

    def parse(self, head: bytes) -> Request:
        return super().parse(head.replace(b" :", b":"))


@fails("bad-content-length")
class TakesAnyLength(SwitchingServer):
    """A Content-Length that is not a number is ignored."""

    def check_framing(self, request: Request) -> None:
        request.fields = [
            (name, value)
            for name, value in request.fields
            if name != "content-length" or value.isdigit()
        ]
        super().check_framing(request)


@fails("bad-transfer-encoding")
class IgnoresCodings(SwitchingServer):
    """An unknown transfer coding is ignored."""

    def check_framing(self, request: Request) -> None:
        request.fields = [field for field in request.fields if field[1] != "probe-unknown"]
        super().check_framing(request)


@fails("length-and-chunks")
class PrefersChunks(SwitchingServer):
    """Of two framings, one counts, and the connection goes on."""

    def check_framing(self, request: Request) -> None:
        if request.all("transfer-encoding") == ["chunked"]:
            request.fields = [field for field in request.fields if field[0] != "content-length"]
        super().check_framing(request)


@fails("expect-continue")
class SwitchesBeforeTheContent(SwitchingServer):
    """Who asks for a 100 gets a 101."""

    def read_content(self, client: Client, request: Request) -> None:
        if not request.all("expect"):
            super().read_content(client, request)


@fails("expect-continue", silent=True)
class KnowsNoExpectations(SwitchingServer):
    """There is no 100."""

    def read_content(self, client: Client, request: Request) -> None:
        fields = [(name, value) for name, value in request.fields if name != "expect"]
        super().read_content(client, Request("", "", "", fields))


@fails("refused-pipelined")
class LosesWhatFollowsARefusedUpgrade(SwitchingServer):
    """What was read behind an upgrade that is refused is lost once that is answered."""

    def read_content(self, client: Client, request: Request) -> None:
        super().read_content(client, request)
        if request.all("upgrade") and not any(map(self.knows, self.offered(request))):
            client.buffer = b""


@fails("pipelined", "pipelined-trailing-data", "refused-pipelined", silent=True)
class LosesPipelinedRequests(SwitchingServer):
    """What was read behind a request is lost once that is answered."""

    def refuse(self, client: Client, method: str, refusal: Refusal, *, closes: bool) -> None:
        client.buffer = b""
        super().refuse(client, method, refusal, closes=closes)


@fails("pipelined-answered")
class HangsUpOnPipelining(SwitchingServer):
    """Another request behind one that is refused is a reason to hang up."""

    def refuse(self, client: Client, method: str, refusal: Refusal, *, closes: bool) -> None:
        if client.buffer:
            raise Left
        super().refuse(client, method, refusal, closes=closes)


@fails("refused-stays-open")
class ClosesBehindRefusals(SwitchingServer):
    """A connection is closed behind anything but a 101, without a word."""

    def exchange(self, client: Client) -> bool:
        super().exchange(client)
        return False


@fails("content-answered")
class HangsUpOnContent(SwitchingServer):
    """A request with Upgrade and content is a reason to hang up."""

    def read_content(self, client: Client, request: Request) -> None:
        if request.all("content-length") and request.all("upgrade") and not request.all("expect"):
            raise Left
        super().read_content(client, request)


@fails("unknown-token-with-chunks", "unknown-token-with-content")
class LeavesContentThere(SwitchingServer):
    """The content of a request that is refused is read as a request."""

    def read_content(self, client: Client, request: Request) -> None:
        if any(map(self.knows, self.offered(request))):
            super().read_content(client, request)


@fails(
    "pipelined",
    "pipelined-trailing-data",
    "refused-then-upgrade",
    "second-request",
    "unknown-token-with-chunks",
    "unknown-token-with-content",
)
class SwitchesFirstRequestsOnly(SwitchingServer):
    """Only the first request of a connection may switch."""

    def exchange(self, client: Client) -> bool:
        if not super().exchange(client):
            return False
        later = SwitchingServer()
        later.token = "none"
        while later.exchange(client):
            pass
        return False


# Answers.


class Answering(SwitchingServer):
    """Answers with other fields."""

    def switches(self, request: Request, token: str) -> Fields:
        return self.fields_of_101(dict(super().switches(request, token)))

    def fields_of_101(self, fields: dict[str, str]) -> Fields:
        """What is sent in their place."""
        raise NotImplementedError


@fails("101-version")
class SwitchesInHTTP10(SwitchingServer):
    """The 101 says HTTP/1.0."""

    version = "HTTP/1.0"


@fails("101-upgrade")
class NamesNoToken(Answering):
    """The 101 has no Upgrade."""

    def fields_of_101(self, fields: dict[str, str]) -> Fields:
        return [("Connection", "Upgrade")]


@fails("101-offered-token")
class NamesAnotherToken(Answering):
    """The 101 names a token that was not offered."""

    def fields_of_101(self, fields: dict[str, str]) -> Fields:
        return [*(fields | {"Upgrade": "other"}).items()]


@fails("101-connection")
class AnswersWithoutConnection(Answering):
    """The 101 has no Connection."""

    def fields_of_101(self, fields: dict[str, str]) -> Fields:
        return [("Upgrade", fields["Upgrade"])]


@fails("101-no-close")
class SaysClose(Answering):
    """The 101 has close beside upgrade."""

    def fields_of_101(self, fields: dict[str, str]) -> Fields:
        return [*fields.items(), ("Connection", "close")]


@fails("101-no-content-length")
class HasALength(Answering):
    """The 101 has a Content-Length."""

    def fields_of_101(self, fields: dict[str, str]) -> Fields:
        return [*fields.items(), ("Content-Length", "0")]


@fails("101-no-transfer-encoding")
class HasChunks(Answering):
    """The 101 has a Transfer-Encoding."""

    def fields_of_101(self, fields: dict[str, str]) -> Fields:
        return [*fields.items(), ("Transfer-Encoding", "chunked")]


@fails("plain-upgrade")
class WritesContentBehind101(SwitchingServer):
    """Something of HTTP's follows the 101: nothing of the new protocol can be read."""

    def takes_over(self, client: Client) -> None:
        client.send(b"0\r\n\r\n")
        super().takes_over(client)


@fails("plain-upgrade")
class NeverSwitches(SwitchingServer):
    """Any Upgrade is ignored, as a server may do it: but then it is not the one that was meant."""

    def offered(self, request: Request) -> list[str]:
        return []


@fails("426-upgrade")
class RequiresNothing(SwitchingServer):
    """The 426 has no Upgrade."""

    def required(self) -> Fields:
        return []


@fails("refusal-connection")
class RequiresWithoutConnection(SwitchingServer):
    """The 426 has no Connection."""

    def required(self) -> Fields:
        return [("Upgrade", self.token)]


# Connections.


@fails("http-behind-101", "trailing-data-like-http")
class LooksForRequests(SwitchingServer):
    """What looks like a request is answered in HTTP, switched or not."""

    def takes_over(self, client: Client) -> None:
        while data := client.read():
            is_request = data.startswith(b"GET ")
            client.send(b"HTTP/1.1 400 Bad Request\r\n\r\n" if is_request else data)


@fails("much-both-ways")
class LosesAByte(SwitchingServer):
    """A byte is lost behind 200 KB."""

    def takes_over(self, client: Client) -> None:
        passed = 0
        while data := client.read():
            cut = 200_000 - passed
            passed += len(data)
            client.send(data[:cut] + data[cut + 1 :] if 0 <= cut < len(data) else data)


@fails(
    "two-connections",
    # What these leave behind may go to the connection of the next check.
    maybe=["reset-behind-request", "reset-behind-101"],
    silent=True,
    jobs=1,
)
class MixesConnections(SwitchingServer):
    """All answers go to the connection that was switched last."""

    last: Client

    def read_content(self, client: Client, request: Request) -> None:
        # Before the client can know of it.
        self.last = client
        super().read_content(client, request)

    def takes_over(self, client: Client) -> None:
        while data := client.read():
            self.last.send(data)


@fails("half-close", "half-close-behind-request", silent=True)
class IgnoresTheEnd(SwitchingServer):
    """The client's FIN is not answered with one."""

    def takes_over(self, client: Client) -> None:
        super().takes_over(client)
        self.ended.wait()


@fails("half-close", "half-close-behind-request")
class SaysGoodbye(SwitchingServer):
    """Bytes that nobody has said come behind the client's FIN."""

    def takes_over(self, client: Client) -> None:
        super().takes_over(client)
        client.send(b"goodbye")


@fails("reset-behind-101", maybe=["reset-behind-request"], silent=True, jobs=1)
class CountsNoResets(SwitchingServer):
    """There is room for three, and clients that leave by a reset are counted for ever."""

    def __init__(self) -> None:
        self._room = threading.Semaphore(3)

    def switches(self, request: Request, token: str) -> Fields:
        # Those that have left need a moment to be noticed: nobody is refused at once.
        while not self._room.acquire(timeout=0.1):
            if self.ended.is_set():
                raise Left
        return super().switches(request, token)

    def takes_over(self, client: Client) -> None:
        super().takes_over(client)
        self._room.release()


class ForgetfulServer(SwitchingServer):
    """What comes in segments of its own while this server decides is lost. It decides slowly."""

    patience = 0.5
    word = 16
    """As many bytes as the checks say."""

    def read_content(self, client: Client, request: Request) -> None:
        super().read_content(client, request)
        came = len(client.buffer)
        while came < self.word and select([client.socket], [], [], self.patience)[0]:
            came += len(client.socket.recv(65536)) or self.word


class HastyServer(SwitchingServer):
    """The time-out for requests goes on when the connection has been switched."""

    patience = 0.05

    def takes_over(self, client: Client) -> None:
        client.socket.settimeout(self.patience)
        super().takes_over(client)


# WebSocket.


@fails(*EARLY_FRAMES, maybe=LATER)
class HangsUpOnEarlyFrames(HangsUpOnEarlyBytes, WebSocketServer):
    """Frames behind a handshake are a reason to hang up: RFC 6455 forbids clients to send them."""


@fails("websocket-other-keys")
class KnowsTheExample(WebSocketServer):
    """The Sec-WebSocket-Accept is always that of the RFC's example."""

    def accept_of(self, key: str) -> str:
        return "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@fails("websocket-other-keys")
class NormalizesKeys(WebSocketServer):
    """The key is decoded, and encoded anew."""

    def accept_of(self, key: str) -> str:
        return super().accept_of(base64.b64encode(base64.b64decode(key)).decode())


@fails("websocket-example-key", "websocket-other-keys")
class SendsTheKeyBack(WebSocketServer):
    """The Sec-WebSocket-Accept is the key."""

    def accept_of(self, key: str) -> str:
        return key


@fails("websocket-no-key")
class NeedsNoKey(WebSocketServer):
    """The key may be left out."""

    def key_of(self, keys: list[str]) -> str:
        return super().key_of(keys) if keys else ""


@fails("websocket-bad-key")
class TakesAnyKey(WebSocketServer):
    """The key may be anything."""

    def key_of(self, keys: list[str]) -> str:
        return keys[0] if keys else super().key_of(keys)


@fails("websocket-unknown-version", "websocket-no-version")
class TakesAnyVersion(WebSocketServer):
    """The version is not looked at."""

    def is_version(self, versions: list[str]) -> bool:
        return True


@fails("websocket-no-version")
class NeedsNoVersion(WebSocketServer):
    """The version may be left out."""

    def is_version(self, versions: list[str]) -> bool:
        return not versions or super().is_version(versions)


@fails("websocket-versions-named", "websocket-version-8")
class NamesNoVersion(WebSocketServer):
    """Who asks for another version is not told which ones there are."""

    def versions(self) -> Fields:
        return []


@fails("websocket-post")
class TakesPosts(WebSocketServer):
    """A handshake may come by POST."""

    def check_method(self, method: str) -> None:
        pass


@fails("websocket-origins")
class TripsOverOrigins(WebSocketServer):
    """An Origin without a host is an error of the server's."""

    def check_origin(self, origins: list[str]) -> None:
        if "null" in origins:
            raise Refusal(500)


@fails("websocket-own-origin")
class RefusesOrigins(WebSocketServer):
    """Browsers are not let in."""

    def check_origin(self, origins: list[str]) -> None:
        if origins:
            raise Refusal(403)


class Adding(WebSocketServer):
    """Answers with a further field."""

    field = ""
    value: str | None = None

    def switches(self, request: Request, token: str) -> Fields:
        # The names of fields are kept in lower case.
        values = request.all(self.field.lower()) if self.value is None else [self.value]
        return [*super().switches(request, token), *((self.field, value) for value in values)]


@fails("websocket-no-protocol-asked", "websocket-unknown-protocol")
class SpeaksOneProtocol(Adding):
    """The 101 always has the same subprotocol."""

    field, value = "Sec-WebSocket-Protocol", "chat"


@fails("websocket-unknown-protocol")
class SpeaksAllProtocols(Adding):
    """The 101 has all subprotocols that were offered."""

    field = "Sec-WebSocket-Protocol"


@fails("websocket-unknown-extension")
class HasAllExtensions(Adding):
    """The 101 has all extensions that were offered."""

    field = "Sec-WebSocket-Extensions"


@fails("websocket-unknown-extension")
class HasOneExtension(Adding):
    """The 101 has an extension that nobody has offered."""

    field, value = "Sec-WebSocket-Extensions", "permessage-deflate"


@fails(
    "websocket-split-frame",
    maybe=["much-both-ways", "trailing-data-100-kb", "trailing-data-split-at-seam", *LATER],
    silent=True,
)
class NeedsWholeFrames(WebSocketServer):
    """What is read of a frame that has not come whole is thrown away."""

    def answer_frame(self, client: Client) -> bool:
        client.buffer = data = client.read()
        masked = data[1:2] >= b"\x80"
        if data and (len(data) < 2 or len(data) < 2 + 4 * masked + (data[1] & 0x7F)):
            client.buffer = b""
            return True
        return super().answer_frame(client)


@fails("websocket-unmasked-frame")
class TakesUnmaskedFrames(WebSocketServer):
    """Frames need no mask."""

    def check_mask(self, second: int) -> None:
        pass


@fails("websocket-close")
class ClosesWithoutAFrame(WebSocketServer):
    """A Close frame is answered with the end of the connection alone."""

    def answer_close(self, client: Client, content: bytes) -> None:
        pass


@fails("websocket-close-ends", silent=True)
class StaysBehindAClose(WebSocketServer):
    """A Close frame does not end the connection."""

    def answer_close(self, client: Client, content: bytes) -> None:
        super().answer_close(client, content)
        self.ended.wait()


@fails("plain-upgrade")
class EndsAtPings(WebSocketServer):
    """A ping is the end."""

    def takes_over(self, client: Client) -> None:
        client.read()


class RefusesEarlyBytes(SwitchingServer):
    """Bytes behind a request that could switch are refused, and the client is told."""

    def read_content(self, client: Client, request: Request) -> None:
        super().read_content(client, request)
        if client.buffer and any(map(self.knows, self.offered(request))):
            self.refuse(client, "GET", Refusal(400), closes=True)
            raise Left


class ClosesPolitely(SwitchingServer):
    """Each answer but a 101 says close."""

    def refuse(self, client: Client, method: str, refusal: Refusal, *, closes: bool) -> None:
        super().refuse(client, method, refusal, closes=True)
        raise Left


class SwitchesPlainRequests(SwitchingServer):
    """Requests with content are not switched."""

    def offered(self, request: Request) -> list[str]:
        return super().offered(request) if request.method == "GET" else []
