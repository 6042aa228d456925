"""
Connects the chats of several processes through a WAMP router (crossbar).

It uses WAMP because autobahn, which the WebSockets need anyway, speaks it: no second client library is
needed, and autobahn's ``Component`` reconnects automatically. The router delivers events to all
subscribers of a topic in the same order, and reports when a subscriber has gone, even if it was killed.
"""

from collections import OrderedDict, deque

from autobahn.twisted.component import Component
from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.types import PublishOptions, RegisterOptions
from twisted.internet.defer import inlineCallbacks, maybeDeferred
from twisted.logger import Logger

SAID, PRESENT, ARRIVED, HISTORY = (f"chat.{what}" for what in ("said", "present", "arrived", "history"))

MOST_UNSAID = 1000  # messages that wait for the router
SAID_AGAIN = 200  # messages that are repeated after a reconnect: the router may have lost them

_log = Logger()


class Wamp:
    """
    The engine of one process among several.

    Messages that are sent while the router is down are kept, and sent again when it is back. A message
    that arrives twice has the same id, and is shown once.
    """

    def __init__(self, reactor, url, realm="chat"):
        self._reactor = reactor
        self._session = None
        self._unsaid = OrderedDict()
        self._said = deque(maxlen=SAID_AGAIN)
        # If the router's machine vanishes, nobody says goodbye: hence the pings.
        options = {"open_handshake_timeout": 5, "auto_ping_interval": 5, "auto_ping_timeout": 5}
        transport = {
            "type": "websocket",
            "url": url,
            "max_retries": -1,
            "initial_retry_delay": 0.2,
            "max_retry_delay": 1,
            "options": options,
        }
        self._component = Component(transports=[transport], realm=realm)
        self._component.on("join", self._joined)
        self._component.on("leave", self._left)

    def start(self, rooms):
        self._rooms = rooms
        self._connect()

    def _connect(self):
        # It reconnects automatically, but not if the router has closed the session cleanly.
        ended = self._component.start(self._reactor)
        ended.addBoth(lambda _: self._reactor.callLater(1, self._connect))

    def publish(self, message):
        if len(self._unsaid) >= MOST_UNSAID:
            return False
        self._unsaid[message["id"]] = message
        self._say(message)
        return True

    def _say(self, message):
        if self._session is None:
            return
        options = PublishOptions(acknowledge=True, exclude_me=False)
        published = maybeDeferred(self._session.publish, SAID, message, options=options)
        # After a failure it remains unsaid, and is sent again with the next session.
        published.addCallbacks(self._is_said, lambda _: None, callbackArgs=(message,))

    def _is_said(self, _, message):
        if self._unsaid.pop(message["id"], None) is not None:
            self._said.append(message)

    def announce(self, name, present):
        if self._session is not None:
            published = maybeDeferred(self._session.publish, PRESENT, self._process, name, present)
            published.addErrback(lambda _: None)

    def _announce_all(self):
        for room in self._rooms:
            if room.members:
                self.announce(room.name, room.here())

    @inlineCallbacks
    def _joined(self, session, details):
        try:
            yield self._join(session)
        except Exception as error:
            _log.warn("cannot join the others: {error}", error=error)
            session.disconnect()
            return
        self._session, self._process = session, details.session
        session.publish(ARRIVED)
        self._announce_all()
        for message in [*self._said, *self._unsaid.values()]:
            self._say(message)

    @inlineCallbacks
    def _join(self, session):
        rooms = self._rooms
        yield session.subscribe(rooms.heard, SAID)
        yield session.subscribe(rooms.elsewhere, PRESENT)
        yield session.subscribe(self._announce_all, ARRIVED)
        yield session.subscribe(lambda process, *_: rooms.gone(process), "wamp.session.on_leave")
        # What this process has missed: who has gone, and what has been said.
        for process in rooms.others().difference((yield session.call("wamp.session.list"))):
            rooms.gone(process)
        try:
            messages = yield session.call(HISTORY).addTimeout(5, self._reactor)
        except ApplicationError as error:
            if error.error != ApplicationError.NO_SUCH_PROCEDURE:
                raise
            messages = []  # the first process has nobody to ask
        for message in messages:
            rooms.heard(message)
        yield session.register(self._history, HISTORY, options=RegisterOptions(invoke="roundrobin"))

    def _history(self):
        return [message for room in self._rooms for message in room.history()]

    def _left(self, session, details):
        self._session = None
