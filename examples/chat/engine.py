"""
Joins the chats of several processes through a WAMP router (crossbar).

WAMP, because autobahn speaks it and comes with the WebSockets anyway: no second client library, and its
``Component`` reconnects by itself. The router gives all subscribers of a topic the events in the same
order, and tells when one of them has gone, even if it was killed.
"""

from contextlib import suppress

from autobahn.twisted.component import Component
from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.types import PublishOptions, RegisterOptions
from twisted.internet.defer import inlineCallbacks

SAID, PRESENT, ARRIVED, HISTORY = (f"chat.{what}" for what in ("said", "present", "arrived", "history"))


class Wamp:
    """
    The engine of one process among several.

    What is said while the router is away is kept, and said again when it is back; a message that
    comes twice has the same id, and is heard once.
    """

    def __init__(self, reactor, url, realm="chat"):
        self._session = None
        self._unsaid = {}
        self._component = Component(
            transports=[
                {
                    "type": "websocket",
                    "url": url,
                    "max_retries": -1,
                    "initial_retry_delay": 0.2,
                    "max_retry_delay": 2,
                    "options": {"open_handshake_timeout": 5, "auto_ping_interval": 5},
                }
            ],
            realm=realm,
        )
        self._component.on("join", self._joined)
        self._component.on("leave", self._left)
        self._reactor = reactor

    def start(self, rooms):
        self._rooms = rooms
        self._component.start(self._reactor)

    def publish(self, message):
        self._unsaid[message["id"]] = message
        if self._session is not None:
            self._say(self._session, message)

    def _say(self, session, message):
        published = session.publish(
            SAID, message, options=PublishOptions(acknowledge=True, exclude_me=False)
        )
        published.addCallbacks(
            lambda _: self._unsaid.pop(message["id"], None),
            lambda _: None,  # still unsaid: it is said again
        )

    def announce(self, room):
        if self._session is not None:
            self._session.publish(PRESENT, self._session._session_id, self._here())

    def _here(self):
        return {
            room.name: sorted({m.name for m in room.members}) for room in self._rooms if room.members
        }

    @inlineCallbacks
    def _joined(self, session, details):
        gone = "wamp.session.on_leave"
        yield session.subscribe(self._rooms.heard, SAID)
        yield session.subscribe(self._rooms.elsewhere, PRESENT)
        yield session.subscribe(lambda: self.announce(None), ARRIVED)
        yield session.subscribe(lambda process, *_: self._rooms.elsewhere(process, {}), gone)
        # What has been said before this process came, or while it was cut off.
        with suppress(ApplicationError):
            for message in (yield session.call(HISTORY)):
                self._rooms.heard(message)
        yield session.register(self._history, HISTORY, options=RegisterOptions(invoke="roundrobin"))
        self._session = session
        session.publish(ARRIVED)
        self.announce(None)
        for message in list(self._unsaid.values()):
            self._say(session, message)

    def _history(self):
        return [message for room in self._rooms for message in room.history()]

    def _left(self, session, details):
        self._session = None
