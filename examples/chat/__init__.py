"""
A chat: its page, its history as JSON over plain HTTP, and what is said over a WebSocket, in one process
on one port. ``python -m chat`` runs it; ``Chat`` is a resource that stands anywhere in a site.
"""

import json
import re
from pathlib import Path

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.types import ConnectionDeny
from twisted.internet.interfaces import IPushProducer
from twisted.web.resource import Resource
from zope.interface import implementer

from upgrade_switch import UpgradeResource
from upgrade_switch.protocols.websocket import websocket

from .rooms import Queue, Rooms

NAME = re.compile(r"[^\x00-\x1f\x7f]{1,32}\Z")
MESSAGE_ID = re.compile(r"[0-9A-Za-z-]{8,64}\Z")
LONGEST = 2000  # characters of a message
MOST_WAITING = 500  # events that wait for one slow reader


def first(arguments, key, default=""):
    """The first value of a query's parameter, as text."""
    value = arguments.get(key, [default])[0]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


@implementer(IPushProducer)
class Member(WebSocketServerProtocol):
    """Somebody in a room."""

    room = None

    def onConnect(self, request):
        self.name = first(request.params, "name").strip()
        room = first(request.params, "room", "lobby").strip()
        if not NAME.match(self.name) or not NAME.match(room):
            raise ConnectionDeny(400, "a name and a room have 1 to 32 characters")
        self._wanted = room
        self._slow = False
        self._queue = Queue(MOST_WAITING)

    def onOpen(self):
        # Knows of a full buffer: a reader that is too slow must not fill the memory.
        self.registerProducer(self, True)
        self.room = self.factory.rooms.get(self._wanted)
        self.factory.rooms.enter(self.room, self)

    def onMessage(self, payload, isBinary):
        try:
            said = json.loads(payload)
            text, message_id = said["text"].strip(), said["id"]
            good = 0 < len(text) <= LONGEST and MESSAGE_ID.match(message_id)
        except (ValueError, TypeError, KeyError, AttributeError):
            good = False
        if good:
            self.factory.rooms.say(self.room, self.name, text, message_id)
        else:
            self.sendClose(4000, "that is no message")

    def onClose(self, wasClean, code, reason):
        if self.room is not None:
            self.factory.rooms.leave(self.room, self)
            self.room = None

    def send(self, event):
        if not self._slow:
            self.sendMessage(json.dumps(event).encode("utf-8"))
        elif not self._queue.put(event):
            self.dropConnection(abort=True)

    def pauseProducing(self):
        self._slow = True

    def resumeProducing(self):
        self._slow = False
        for event in self._queue.take_all():
            self.send(event)
            if self._slow:
                break

    def stopProducing(self):
        pass


class Answer(Resource):
    """A page of JSON."""

    isLeaf = True

    def __init__(self, ask):
        super().__init__()
        self._ask = ask

    def render_GET(self, request):
        request.setHeader(b"content-type", b"application/json")
        request.setHeader(b"cache-control", b"no-store")
        return json.dumps(self._ask(request.args)).encode("utf-8")


class Page(Resource):
    def render_GET(self, request):
        request.setHeader(b"content-type", b"text/html; charset=utf-8")
        return (Path(__file__).parent / "page.html").read_bytes()


class Chat(Resource):
    """The chat, to be put anywhere in a site's tree."""

    def __init__(self, engine=None):
        super().__init__()
        self.rooms = Rooms(engine)
        factory = WebSocketServerFactory()
        factory.protocol = Member
        factory.rooms = self.rooms
        factory.setProtocolOptions(
            maxMessagePayloadSize=16384, autoPingInterval=10, autoPingTimeout=10, failByDrop=False
        )
        self.putChild(b"", Page())
        self.putChild(b"socket", UpgradeResource({"websocket": websocket(factory)}))
        self.putChild(b"history", Answer(self._history))
        self.putChild(b"rooms", Answer(self._rooms))

    def render_GET(self, request):
        # Without the slash, the page's own links would lead elsewhere.
        request.redirect(request.uri.partition(b"?")[0] + b"/")
        return b""

    def _history(self, arguments):
        name = first(arguments, b"room", "lobby").strip()
        known = [room for room in self.rooms if room.name == name]
        return known[0].history() if known else []

    def _rooms(self, arguments):
        return [{"room": room.name, "names": room.present()} for room in self.rooms if room.present()]
