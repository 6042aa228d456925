"""
The chat of ``examples/chat`` for tests: where it is, and its users.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from itertools import count
from typing import Any
from urllib.parse import urlencode

import treq
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.client import HTTPConnectionPool
from twisted.web.resource import Resource

from tests.kit import EXAMPLES
from tests.kit.harness import Waiters, WatchedSite, patient, reactor
from upgrade_switch import UpgradePool
from upgrade_switch.protocols import connect_websocket

if str(EXAMPLES) not in sys.path:
    sys.path.append(str(EXAMPLES))

#: The modules under test. Examples have no types.
chat: Any = import_module("chat")
rooms_module: Any = import_module("chat.rooms")
cluster_module: Any = import_module("chat.cluster")

_numbers = count()


def new_id() -> str:
    """An id that no other message has."""
    return f"message-{next(_numbers):08}"


async def get(url: str, **query: str) -> Any:
    """What a page of JSON says."""
    pool = HTTPConnectionPool(reactor, persistent=False)
    response = await patient(treq.get(url, params=query, pool=pool))
    assert response.code == 200, response.code
    return await patient(response.json())


class Socket(WebSocketClientProtocol):
    """
    A connection to the chat.

    :ivar events: all that the server has sent.
    :ivar closed: its code, when the connection has ended.
    """

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Any] = []
        self.closed: int | None = None
        self._waiters = Waiters()
        self.user: User | None = None

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        event = json.loads(payload)
        self.events.append(event)
        if self.user is not None:
            self.user.hears(event)
        self._waiters.look()

    def onClose(self, wasClean: bool, code: int, reason: str) -> None:
        self.closed = code
        if self.user is not None:
            self.user.is_cut_off()
        self._waiters.look()

    def until(self, condition: Any) -> Deferred[None]:
        return self._waiters.until(condition)

    def is_closed_with(self, code: int) -> Deferred[None]:
        def check(_: None) -> None:
            assert self.closed == code, self.closed

        return self.until(lambda: self.closed is not None).addCallback(check)

    def names(self) -> list[str]:
        """Who is there, as far as this one knows."""
        told = [event["names"] for event in self.events if event["type"] != "message"]
        return told[-1] if told else []

    def texts(self) -> list[str]:
        return [event["text"] for event in self.events if event["type"] == "message"]

    def say(self, text: str, message_id: str | None = None) -> str:
        """:return: the message's id."""
        message_id = message_id or new_id()
        self.sendMessage(json.dumps({"text": text, "id": message_id}).encode())
        return message_id


def open_socket(base: str, headers: Any = None, **query: str) -> Deferred[Socket]:
    """
    Enter a room.

    :param base: the chat's URL, which ends in a slash.
    """
    factory = WebSocketClientFactory()
    factory.protocol = Socket
    # autobahn's own is a second, which is not much on a machine that is busy.
    factory.setProtocolOptions(closeHandshakeTimeout=0)
    url = f"{base}socket?{urlencode(query)}"
    return patient(connect_websocket(UpgradePool(reactor), url, factory, headers))


class User:
    """
    Somebody who does what the page does: comes back when the connection is lost, says again what has
    not come back, and asks for the history.

    :ivar heard: texts by id, each once; ``doubled`` are the ids that a socket brought twice.
    :ivar node: what haproxy calls the node that this one is on.
    """

    def __init__(self, base: str, name: str, room: str = "lobby", secret: str = "") -> None:
        """
        :param secret: the user's own id.
        """
        self.base = base
        self.secret = secret
        self.name = name
        self.room = room
        self.heard: dict[str, str] = {}
        self.doubled: list[str] = []
        self.names: list[str] = []
        self.lost = 0
        self.entered = 0
        self.entered_at = 0.0
        self.node = ""
        self.unsaid: dict[str, str] = {}
        self._socket: Any = None
        self._waiters = Waiters()
        self._seen: set[str] = set()
        self._gone = False

    async def enter(self) -> User:
        self._connect()
        await self.until(lambda: self.entered > 0)
        return self

    def until(self, condition: Any) -> Deferred[None]:
        return self._waiters.until(condition)

    def _connect(self) -> None:
        if not self._gone:
            opened = open_socket(self.base, name=self.name, room=self.room, id=self.secret)
            opened.addCallbacks(self._opened, self._refused)

    def _opened(self, socket: Socket) -> None:
        self._socket = socket
        self.node = socket.http_headers.get("x-node", "")
        self._seen = set()
        # What came with the handshake's last segment.
        for event in socket.events:
            self.hears(event)
        socket.user = self
        if socket.closed is not None:
            self.is_cut_off()
        elif self._gone:
            socket.sendClose()

    def _refused(self, _: Failure) -> None:
        reactor.callLater(0.1, self._connect)

    def is_cut_off(self) -> None:
        self._socket = None
        self.lost += 1
        self._waiters.look()
        reactor.callLater(0.05, self._connect)

    def hears(self, event: Any) -> None:
        if event["type"] == "message":
            if event["id"] in self._seen:
                self.doubled.append(event["id"])
            self._seen.add(event["id"])
            self._keep(event)
        else:
            self.names = event["names"]
        if event["type"] == "entered":
            self.entered += 1
            self.entered_at = reactor.seconds()
            for message_id, text in self.unsaid.items():
                self._say(message_id, text)
            Deferred.fromCoroutine(self._catch_up(event["last"])).addErrback(lambda _: None)
        self._waiters.look()

    def _keep(self, message: Any) -> None:
        self.unsaid.pop(message["id"], None)
        self.heard[message["id"]] = message["text"]

    async def _catch_up(self, last: str | None) -> None:
        while True:
            for message in await get(f"{self.base}history", room=self.room):
                self._keep(message)
            self._waiters.look()
            if last is None or last in self.heard:
                return

    def say(self, text: str) -> None:
        message_id = new_id()
        self.unsaid[message_id] = text
        self._say(message_id, text)

    def _say(self, message_id: str, text: str) -> None:
        # _opened may come after the first events.
        if self._socket is not None:
            self._socket.say(text, message_id)

    def leave(self) -> None:
        self._gone = True
        if self._socket is not None:
            self._socket.sendClose()


def chat_site(**kwargs: Any) -> Any:
    """A site with a chat at ``/chat``; its rooms are ``site.chat.rooms``."""
    root = Resource()
    site: Any = WatchedSite(root)
    site.chat = chat.Chat(reactor=reactor, **kwargs)
    root.putChild(b"chat", site.chat)
    return site
