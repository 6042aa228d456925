"""
:class:`UpgradeRequest`: a ``twisted.web.server.Request`` that knows what its client offers, and that
can switch.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IProtocol
from twisted.python.failure import Failure
from twisted.web.server import Request

from . import _twisted
from .channel import UpgradeChannel
from .errors import (
    AlreadySwitched,
    ClientGone,
    Draining,
    InvalidPhrase,
    NotOffered,
    ResponseStarted,
    TooManySwitched,
)
from .negotiation import NO_OFFER, Offer, UpgradeToken, is_host
from .pages import StatusPage
from .takeover import SwitchedConnection, check_target, hand_over

__all__ = ["UpgradeRequest"]

SWITCHING_PROTOCOLS = 101

# What frames a response's content, which a 101 has not, and what the 101 says itself.
_NOT_IN_A_101 = frozenset([b"Content-Length", b"Transfer-Encoding", b"Connection", b"Upgrade"])


class UpgradeRequest(Request):
    """
    The request of an ``UpgradeSite``. Give a subclass as the site's ``requestFactory`` to have one's
    own; where it overrides ``process``, it calls ``super().process()``.
    """

    channel: UpgradeChannel
    _offer: Offer | None = None
    _switched = False

    @property
    def offer(self) -> Offer:
        """
        All that this request's client is willing to switch to; empty where the request is not
        eligible, or its connection cannot switch (a plain Site's, HTTP/2).
        """
        if self.path is None:
            # The request has not been read to its end: nothing is known yet.
            return NO_OFFER
        if self._offer is None:
            header = self.requestHeaders.getRawHeaders
            offer = Offer.of_request(
                self.method, self.clientproto, header(b"upgrade"), header(b"connection")
            )
            if offer and not isinstance(getattr(self, "channel", None), UpgradeChannel):
                offer = Offer((), "this connection belongs to no UpgradeSite")
            self._offer = offer
        return self._offer

    def process(self) -> None:
        """
        Answer the request: 400 for HTTP/1.1 without exactly one valid Host (RFC 9112 §3.2), else
        with the addressed resource.
        """
        # Now, while there is a connection: whoever asks later gets the same.
        self.offer  # noqa: B018
        hosts = self.requestHeaders.getRawHeaders(b"host") or ()
        if self.clientproto == b"HTTP/1.1" and (len(hosts) != 1 or not is_host(hosts[0])):
            self.site = self.channel.site
            self.render(StatusPage(400, "Bad Request", "A request has one valid Host."))
        else:
            super().process()

    def switch_to(
        self,
        token: str | UpgradeToken,
        target: IProtocol,
        phrase: bytes = b"Switching Protocols",
    ) -> SwitchedConnection:
        """
        Answer 101 and give the connection to another protocol (RFC 9110 §7.8, §15.2.2).

        First the HTTP request is finished: the 101 is written with what has been set on
        ``responseHeaders`` and ``cookies``, the access log gets its line, ``notifyFinish`` fires and
        ``content`` is closed. Then the target gets ``makeConnection`` and the trailing data: all of
        it before this returns, so have the target ready. Afterwards it owns the connection, and
        closes it; nothing that ``render`` returns or raises, and no ``write`` or ``finish``, reaches
        the wire. What the target raises is logged and ends the connection, and is not raised here.

        :param token: one of the offer's tokens, or a text: ``"echo"`` takes it in any version or
            none, ``"chat/2"`` in that version alone. The answer has the client's spelling.
        :param target: any ``IProtocol``.
        :param phrase: the status line's reason phrase; Docker's client wants ``b"UPGRADED"``.
        :raises SwitchRefused: one of its subclasses says why not; nothing has been written.
        :raises InvalidTarget: for what is no ``IProtocol``.
        :raises InvalidPhrase: for a phrase that is no bytes.
        """
        check_target(target)
        if not isinstance(phrase, bytes):
            raise InvalidPhrase(f"a reason phrase is bytes, not {phrase!r}")
        self._check_not_answered()
        offered = self.offer.first(token)
        if offered is None:
            raise NotOffered(
                f"the client does not offer {token}: {self.offer.ineligible or self.offer or 'nothing'}"
            )
        channel = self.channel
        transport: Any = channel.transport
        site = channel.site
        if _twisted.is_closing(transport):
            raise ClientGone("the connection is being closed")
        if site.draining:
            raise Draining("the site is going down")
        if not site.switched.has_room_for(transport):
            raise TooManySwitched(f"{len(site.switched)} connections are switched already")
        slot = _twisted.slot_of(transport, channel)
        self._switched = True
        # Before anybody else's code runs: who looks at the site in notifyFinish counts this one, too.
        connection = site.switched.enter(transport, offered, self.path, target)
        try:
            self._write_head(channel, offered, phrase)
            trailing = channel.leave(self)
        except BaseException:
            # The access log's formatter, say. The 101 is out: there is no way back into HTTP.
            _twisted.abort(transport)
            raise
        site.keep_alive(transport)
        connection.target = target
        hand_over(transport, slot, target, trailing)
        return connection

    def _check_not_answered(self) -> None:
        if self._switched:
            raise AlreadySwitched("this request has switched already")
        if self.startedWriting or self.finished:
            raise ResponseStarted("the response has been started already")
        if getattr(self, "channel", None) is None:
            raise ClientGone("the client has closed the connection")

    def _write_head(self, channel: UpgradeChannel, token: UpgradeToken, phrase: bytes) -> None:
        """Write the 101, which has neither body nor framing (RFC 9110 §15.2, §8.6)."""
        _twisted.forget_encoder(self)
        self.code, self.code_message = SWITCHING_PROTOCOLS, phrase
        lines = [
            (name, value)
            for name, values in self.responseHeaders.getAllRawHeaders()
            if name not in _NOT_IN_A_101
            for value in values
        ]
        lines.extend((b"Set-Cookie", cookie) for cookie in self.cookies)
        channel.write_switch(phrase, str(token).encode("ascii"), lines)
        self.startedWriting = 1

    # What keeps HTTP off the wire after the switch.

    def write(self, data: bytes) -> None:
        if not self._switched:
            super().write(data)

    def finish(self) -> None:
        if not (self._switched and self.finished):
            super().finish()

    def processingFailed(self, reason: Failure) -> Failure:
        if not self._switched:
            failed: Failure = super().processingFailed(reason)
            return failed
        self._log.failure("render failed after the switch to another protocol", failure=reason)
        return reason

    # twisted.web.distrib sends requests to another process: as the class that it knows there, and
    # without what only this side can use.

    def getTypeToCopy(self) -> bytes:
        return b"twisted.web.server.Request"

    def getStateToCopyFor(self, issuer: object) -> dict[str, object]:
        state: dict[str, object] = super().getStateToCopyFor(issuer)
        state.pop("_offer", None)
        state.pop("_switched", None)
        return state
