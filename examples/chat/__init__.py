"""
A chat: its page, its history as JSON over plain HTTP, and its messages over a WebSocket, in one process
on one port. ``Chat`` is a resource that you can put anywhere in a site::

    PYTHONPATH=examples upgrade-switch serve --class '/chat chat.Chat'
"""

import json
import re
from pathlib import Path
from urllib.parse import urlsplit

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.types import ConnectionDeny
from twisted.internet.interfaces import IPushProducer
from twisted.web.resource import Resource
from zope.interface import implementer

from upgrade_switch import UpgradeResource
from upgrade_switch.protocols import websocket

from .names import name_in, person_of
from .rooms import Queue, Rooms

LONGEST = 2000  # characters of a message
MOST_WAITING = 500  # events that wait for one slow reader

# No control characters, and no lone surrogates (which JSON can write, but UTF-8 cannot).
TEXT = re.compile(rf"[^\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]{{1,{LONGEST}}}\Z")
MESSAGE_ID = re.compile(r"[0-9A-Za-z-]{8,64}\Z")

# Private close codes (RFC 6455 §7.4.2), which the page knows.
BAD_MESSAGE, NOT_NOW = 4000, 4001


def message_in(payload):
    """
    The text and the id of what a member has sent.

    :raises ValueError: if it is not a message.
    """
    try:
        said = json.loads(payload)
        text, message_id = said["text"].strip(), said["id"]
        good = TEXT.match(text) and MESSAGE_ID.match(message_id)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        good = None
    if not good:
        raise ValueError("not a message")
    return text, message_id


def first(arguments, key, default=""):
    """The first value of a query's parameter, as text."""
    value = arguments.get(key, [default])[0]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


@implementer(IPushProducer)
class Member(WebSocketServerProtocol):
    """Somebody in a room."""

    room = None

    def onConnect(self, request):
        # A page of another site must not speak for the person who looks at it.
        origin = request.origin
        if origin and self.factory.same_origin and not _is_at(origin, request.headers["host"]):
            raise ConnectionDeny(403, "this is for its own page only")
        try:
            self.name = name_in(first(request.params, "name"))
            self._wanted = name_in(first(request.params, "room", "lobby"))
            self.person = person_of(first(request.params, "id"))
        except ValueError as error:
            raise ConnectionDeny(400, f"this name, room or id cannot be taken: {error}") from None
        self._slow = False
        self._queue = Queue(MOST_WAITING)

    def onOpen(self):
        # Tells us when the buffer is full: a client that reads too slowly must not fill the memory.
        self.registerProducer(self, True)
        self.room = self.factory.rooms.enter(self._wanted, self)

    def onMessage(self, payload, isBinary):
        if self.state != self.STATE_OPEN:
            # This follows something that was not a message.
            return
        try:
            text, message_id = message_in(payload)
        except ValueError:
            self.sendClose(BAD_MESSAGE, "that is no message")
            return
        if not self.factory.rooms.say(self.room, self, text, message_id):
            self.sendClose(NOT_NOW, "say it again")

    def onClose(self, wasClean, code, reason):
        if self.room is not None:
            self.factory.rooms.leave(self.room, self)
            self.room = None

    def send(self, text):
        if self.state != self.STATE_OPEN:
            return
        if not self._slow:
            # A prepared message, since autobahn's limit is meant for what strangers send, not for lists
            # of names.
            self.sendPreparedMessage(self.factory.prepareMessage(text.encode("ascii")))
        elif not self._queue.put(text):
            self.dropConnection(abort=True)

    def pauseProducing(self):
        self._slow = True

    def resumeProducing(self):
        self._slow = False
        for text in self._queue.take_all():
            self.send(text)
            if self._slow:
                break

    def stopProducing(self):
        pass


def _is_at(origin, host):
    return urlsplit(origin).netloc.lower() == host.lower()


class Answer(Resource):
    """A page of JSON."""

    isLeaf = True

    def __init__(self, ask):
        super().__init__()
        self._ask = ask

    def render_GET(self, request):
        request.setHeader(b"content-type", b"application/json")
        request.setHeader(b"cache-control", b"no-store")
        return json.dumps(self._ask(request.args)).encode("ascii")


class Page(Resource):
    def render_GET(self, request):
        request.setHeader(b"content-type", b"text/html; charset=utf-8")
        request.setHeader(b"cache-control", b"no-cache")
        return (Path(__file__).parent / "page.html").read_bytes()


class Chat(Resource):
    """The chat, for any place in a site's tree."""

    def __init__(self, engine=None, reactor=None, allowed_origins=None):
        """
        :param engine: what connects it with the chats of other processes; None if it is alone.
        :param allowed_origins: the origins whose pages may open the socket; None for the chat's own.
        """
        super().__init__()
        if reactor is None:
            from twisted.internet import reactor
        self.rooms = Rooms(reactor.callLater, engine)
        factory = WebSocketServerFactory()
        factory.protocol = Member
        factory.rooms = self.rooms
        factory.same_origin = allowed_origins is None
        factory.setProtocolOptions(
            maxMessagePayloadSize=16384, autoPingInterval=10, autoPingTimeout=10, failByDrop=False
        )
        self.putChild(b"", Page())
        self.putChild(b"socket", UpgradeResource({"websocket": websocket(factory, allowed_origins)}))
        self.putChild(b"history", Answer(self._history))
        self.putChild(b"rooms", Answer(self._rooms))

    def render_GET(self, request):
        # Without the slash, the page's relative links would be wrong.
        path, mark, query = request.uri.partition(b"?")
        request.redirect(b"./" + path.rpartition(b"/")[2] + b"/" + mark + query)
        return b""

    def _history(self, arguments):
        try:
            room = self.rooms.find(name_in(first(arguments, b"room", "lobby")))
        except ValueError:
            # There is no such room.
            room = None
        return [] if room is None else room.history()

    def _rooms(self, arguments):
        return [{"room": room.name, "names": room.names()} for room in self.rooms if room.present()]
