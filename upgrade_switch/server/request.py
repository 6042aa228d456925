"""
:class:`UpgradeRequest`: a ``twisted.web.server.Request`` that knows what its client offers, and that
can switch.
"""

from __future__ import annotations

from collections.abc import Collection

from twisted.internet.interfaces import IProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource
from zope.interface import implementer

from .._twisted import forget_encoder, raw_fields
from ..connection import SwitchedConnection
from ..errors import (
    AlreadySwitched,
    ClientGone,
    ContentUnread,
    Draining,
    InvalidArgument,
    InvalidPhrase,
    NotDetachable,
    NotOffered,
    ResponseStarted,
    SwitchRefused,
    TooManySwitched,
)
from ..interfaces import Declined, IDetachable, ILayered, IUpgradeRequest, IUpgradeSite, SwitchHead
from ..negotiation import NO_OFFER, Offer, UpgradeToken
from ..takeover import check_target
from .gathering import IGatheringChannel
from .heads import SWITCHING, head_of_101, http_date, usual_head
from .pages import StatusPage
from .streaming import StreamingRequest
from .switched import Asked, certificate_subject

__all__ = ["UpgradeRequest"]

_log = Logger()

OK = 200

# What frames a response's content, which one that switches has not.
_FRAMING = frozenset([b"Content-Length", b"Transfer-Encoding"])

# And what a 101 says itself.
_NOT_IN_A_SWITCH = _FRAMING | {b"Connection", b"Upgrade"}

# The codes of an answer that may go on for as long as the connection does: 204 and 205 have no content.
_ENDLESS = frozenset(range(200, 300)) - {204, 205}

# How many bytes of a body are sent together with the head: to join them takes a copy.
_MOST_TOGETHER = 2**16

# What only this process can use.
_NOT_COPIED = frozenset(
    {"_offer", "_as_sent", "_switched", "_content_stream", "_found", "_is_streamed"}
    | {"_target", "_told_if_left", "decided"}
)

_CANNOT_SWITCH: dict[Declined, tuple[type[SwitchRefused], str]] = {
    Declined.LEFT: (ClientGone, "the client has left, or the connection is being closed"),
    Declined.DRAINING: (Draining, "the site is going down"),
    Declined.ADDRESS_FULL: (
        TooManySwitched,
        "as many connections of this address are switched as max_per_address allows",
    ),
    Declined.FULL: (TooManySwitched, "as many connections are switched as max_switched allows"),
}


@implementer(IUpgradeRequest)
class UpgradeRequest(StreamingRequest):
    """
    The request of an ``UpgradeSite``. To have a class of your own, give a subclass as the site's
    ``requestFactory``; if it overrides ``process``, it calls ``super().process()``.
    """

    _offer: Offer | None = None
    _switched = False

    decline_detail = ""
    authenticated_user: str | None = None

    @property
    def offer(self) -> Offer:
        """
        All that this request's client is willing to switch to; empty if the request is not eligible,
        or if its connection cannot switch (a plain Site's, HTTP/2).
        """
        if self.path is None:
            # The request has not been read to its end: nothing is known yet.
            return NO_OFFER
        if self._offer is None:
            self._offer = self._read_offer()
        return self._offer

    def _read_offer(self) -> Offer:
        channel = getattr(self, "channel", None)
        # RFC 8441 §4: an extended CONNECT names its one token elsewhere.
        named = getattr(channel, "connect_protocol", None)
        fields = raw_fields(self.requestHeaders)
        if named:
            offer = Offer((named,))
        elif b"Upgrade" not in fields:
            return NO_OFFER
        else:
            values = fields[b"Upgrade"], fields.get(b"Connection")
            offer = Offer.of_request(self.method, self.clientproto, *values)
        if offer.tokens and not IDetachable.providedBy(channel):
            offer = Offer((), "this connection belongs to no UpgradeSite")
        return offer

    @property
    def is_stream(self) -> bool:
        """Whether the request is an extended CONNECT (RFC 8441), whose stream may switch."""
        return getattr(getattr(self, "channel", None), "connect_protocol", None) is not None

    @property
    def is_detachable(self) -> bool:
        """Whether the request's connection can leave HTTP at all, and has not ended."""
        return IDetachable.providedBy(getattr(self, "channel", None))

    def process(self) -> None:
        """
        Answer the request: 400 if it breaks a rule of HTTP, else with the addressed resource.
        """
        site = self.site
        # It is remembered: later, when the connection may have ended, it is still the same.
        offer = self._offer = self._read_offer() if self._offer is None else self._offer
        is_connect = self.method == b"CONNECT" and IUpgradeSite.providedBy(site)
        if is_connect and self.is_detachable:
            # RFC 9931: what the client may have sent already belongs into the tunnel, and is not HTTP.
            self.channel.persistent = False
            self.responseHeaders.setRawHeaders(b"connection", [b"close"])
        if self._bad_request is not None:
            self._answer_with(StatusPage(400, "Bad Request", self._bad_request))
        elif is_connect:
            self._answer_with(site.answer_to_connect(self))
        elif self.path == b"*" and offer and (upgrade := site.site_upgrade_for(self)):
            # Twisted answers OPTIONS * without asking for a resource.
            self._answer_with(upgrade)
        else:
            super().process()

    def _answer_with(self, resource: IResource) -> None:
        """Answer with a resource outside of the tree, as ``Request.process`` does with the tree's."""
        self.prepath, self.postpath = [], []
        # Site.getResourceFor sets it for the tree's resources: sessions depend on it.
        self.sitepath: list[bytes] = []
        self.render(resource)

    def switch_to(
        self,
        token: str | UpgradeToken,
        target: IProtocol,
        phrase: bytes = SWITCHING,
    ) -> SwitchedConnection:
        """
        Answer 101 and give the connection to another protocol (RFC 9110 §7.8, §15.2.2).

        First the HTTP request is finished: the 101 is written with what has been set on
        ``responseHeaders`` and ``cookies``, the access log gets its line, ``notifyFinish`` fires and
        ``content`` is closed. Then the target gets ``makeConnection`` and the trailing data: all of
        it before this returns, so have the target ready. Afterwards it owns the connection, and
        closes it; nothing that ``render`` returns or raises, and no ``write`` or ``finish``, reaches
        the wire. What the target raises is logged and ends the connection, and is not raised here.

        :param token: one of the offer's tokens, or a string: ``"echo"`` takes it in any version or
            none, ``"chat/2"`` in that version alone. The answer has the client's spelling.
        :param target: any ``IProtocol``.
        :param phrase: the status line's reason phrase; Docker's client wants ``b"UPGRADED"``.
        :raises SwitchRefused: one of its subclasses says why not; nothing has been written.
        :raises InvalidTarget: if the target is not an ``IProtocol``.
        :raises InvalidPhrase: if the phrase is not bytes.
        """
        self._check_switch(target, phrase)
        offered = self.offer.first(token)
        if offered is None:
            raise NotOffered(
                f"the client does not offer {token}: {self.offer.ineligible or self.offer or 'nothing'}"
            )
        return self._or_raise(self._switch_to_offered(offered, target, phrase))

    def accept_connect(self, target: IProtocol, phrase: bytes = b"OK") -> SwitchedConnection:
        """
        Answer a CONNECT with 200 and give the connection to another protocol (RFC 9110 §9.3.6): all
        else is as with :meth:`switch_to`. What an acceptor of ``UpgradeSite(connect=...)`` results in
        goes through here; if that is a resource, it may itself call this.

        :param target: any ``IProtocol``.
        :param phrase: the status line's reason phrase.
        :raises SwitchRefused: one of its subclasses says why not; nothing has been written.
        :raises InvalidTarget: if the target is not an ``IProtocol``.
        :raises InvalidPhrase: if the phrase is not bytes.
        """
        self._check_switch(target, phrase)
        has_left = getattr(self, "channel", None) is None
        if self.method != b"CONNECT" or not (self.is_detachable or has_left):
            raise NotOffered("this request is not a CONNECT to an UpgradeSite")
        return self._or_raise(self._switch(None, target, SwitchHead(OK, phrase, ())))

    def take_over(self, target: IProtocol, code: int = OK, phrase: bytes = b"OK") -> SwitchedConnection:
        """
        Answer with a head, and give the connection to another protocol, without an upgrade: for old
        protocols that simply stop speaking HTTP behind the head of a 2xx (Docker's before 1.12). In
        HTTP's view, all that the target sends is the answer's content, which ends with the connection.
        All else is as with :meth:`switch_to`.

        The head has what has been set on ``responseHeaders`` and ``cookies``, except Content-Length
        and Transfer-Encoding; and ``Connection: close``, unless Connection has been set.

        :param target: any ``IProtocol``.
        :param code: the status code: 200 to 299, but not 204 and 205, which have no content.
        :param phrase: the status line's reason phrase.
        :raises SwitchRefused: one of its subclasses says why not; nothing has been written.
            ``NotDetachable`` over HTTP/2; ``NotOffered`` on a CONNECT (see :meth:`accept_connect`).
        :raises InvalidArgument: if it is another code.
        :raises InvalidTarget: if the target is not an ``IProtocol``.
        :raises InvalidPhrase: if the phrase is not bytes.
        """
        if not isinstance(code, int) or code not in _ENDLESS:
            raise InvalidArgument(f"a code is 200 to 299, but not 204 or 205; not {code!r}")
        self._check_switch(target, phrase)
        if self.method == b"CONNECT":
            raise NotOffered("a CONNECT is answered with accept_connect")
        has_left = getattr(self, "channel", None) is None
        if self.clientproto == b"HTTP/2" or not (self.is_detachable or has_left):
            raise NotDetachable("this request's connection is HTTP/2's, or belongs to no UpgradeSite")
        is_said = self.responseHeaders.hasHeader(b"connection")
        head = SwitchHead(code, phrase, () if is_said else ((b"Connection", b"close"),))
        return self._or_raise(self._switch(None, target, head, _FRAMING))

    def try_switch_to(
        self, offered: UpgradeToken, target: IProtocol, phrase: bytes = SWITCHING
    ) -> Declined | None:
        """
        :meth:`switch_to`, for a token of the offer and a target that is known to be an ``IProtocol``;
        returns why the connection may not switch.
        """
        self._check_state()
        result = self._switch_to_offered(offered, target, phrase)
        return None if isinstance(result, SwitchedConnection) else result

    def try_accept_connect(self, target: IProtocol) -> Declined | None:
        """:meth:`accept_connect`, for such a target; returns why the connection may not switch."""
        self._check_state()
        result = self._switch(None, target, SwitchHead(OK, b"OK", ()))
        return None if isinstance(result, SwitchedConnection) else result

    @property
    def has_switched(self) -> bool:
        """Whether this request was answered with another protocol, which owns its connection now."""
        return self._switched

    def _check_switch(self, target: IProtocol, phrase: bytes) -> None:
        check_target(target)
        if not isinstance(phrase, bytes):
            raise InvalidPhrase(f"a reason phrase is bytes, not {phrase!r}")
        self._check_state()

    def _check_state(self) -> None:
        if self._switched:
            raise AlreadySwitched("this request has switched already")
        if self.startedWriting or self.finished:
            raise ResponseStarted("the response has been started already")
        if self._is_streamed and self.has_unread_content:
            raise ContentUnread(
                "the content, which ends before the switch, has not been read to its end"
            )

    @staticmethod
    def _or_raise(result: SwitchedConnection | Declined) -> SwitchedConnection:
        if isinstance(result, Declined):
            refused, message = _CANNOT_SWITCH[result]
            raise refused(message)
        return result

    def _switch_to_offered(
        self, offered: UpgradeToken, target: IProtocol, phrase: bytes = SWITCHING
    ) -> SwitchedConnection | Declined:
        if self.clientproto == b"HTTP/2":
            # RFC 8441 §5; RFC 9113 §8.6.
            return self._switch(offered, target, SwitchHead(OK, b"OK", ()))
        named = offered.text
        if ILayered.providedBy(target):
            named = ", ".join((named, *target.layers))
        return self._switch(offered, target, head_of_101(named, phrase))

    def _switch(
        self,
        token: UpgradeToken | None,
        target: IProtocol,
        head: SwitchHead,
        without: Collection[bytes] = _NOT_IN_A_SWITCH,
    ) -> SwitchedConnection | Declined:
        """
        :param without: which fields are left out of what has been set on the response.
        :return: the connection, switched; or why it may not be, and nothing has been done.
        """
        channel = getattr(self, "channel", None)
        if channel is None:
            return Declined.LEFT
        switched = self.site.switched
        transport, address = channel.transport, self.getClientAddress()
        why: Declined | None = switched.why_declined(transport, address)
        if why is not None:
            return why
        # It may raise NotDetachable: here, where nothing has been done yet.
        slot = channel.slot()
        if "host" not in self.__dict__:
            # getHost() is to answer when the socket is closed, too.
            self.host = transport.getHost()
        user = self.authenticated_user or certificate_subject(transport)
        asked = Asked(token, self.path, address, user)
        connection: SwitchedConnection = switched.switch(
            channel, slot, self._completed(head, without), asked, target
        )
        return connection

    def _completed(self, head: SwitchHead, without: Collection[bytes]) -> SwitchHead:
        """
        The head with what has been set on the response, which has neither a body nor framing (RFC
        9110 §15.2, §9.3.6, §8.6). From here on this request answers nothing else.
        """
        self._switched = True
        forget_encoder(self)
        self.code, self.code_message = head.code, head.phrase
        self.startedWriting = 1
        if not (self.has_response_headers or self.cookies):
            return usual_head(head, http_date())
        fields = [
            (name, value)
            for name, values in raw_fields(self.responseHeaders).items()
            if name not in without
            for value in values
        ]
        if self.cookies:
            fields += [(b"Set-Cookie", cookie) for cookie in self.cookies]
        return SwitchHead(head.code, head.phrase, (*fields, *head.fields))

    def note_switch(self, method: bytes, target: bytes, head: SwitchHead) -> None:
        """The connection has been switched past this request, with this head."""
        self.site = self.channel.site
        self._set_target(method, target, b"HTTP/1.1")
        self._switched = True
        self._split_path()
        self.sitepath = []
        self.note_answer(head.code, head.phrase, b"", 0)

    # After the switch, nothing of HTTP gets onto the wire.

    def write(self, data: bytes) -> None:
        if self._switched:
            return
        if (
            0 < len(data) <= _MOST_TOGETHER
            and not self.startedWriting
            and IGatheringChannel.providedBy(self.channel)
        ):
            # The head, and what there is of the body.
            self.channel.write_together(super().write, data)
        else:
            super().write(data)

    def finish(self) -> None:
        if not self._switched:
            super().finish()
        elif not self.finished:
            # Its head is out, and has nothing behind it.
            self.finish_noted()
            self.let_go()

    def processingFailed(self, reason: Failure) -> Failure:
        if not self._switched:
            failed: Failure = super().processingFailed(reason)
            return failed
        _log.failure("render failed after the switch to another protocol", failure=reason)
        return reason

    # twisted.web.distrib sends requests to another process: under the class name that it knows there,
    # and without what only this process can use.

    def getTypeToCopy(self) -> bytes:
        return b"twisted.web.server.Request"

    def getStateToCopyFor(self, issuer: object) -> dict[str, object]:
        self.make_all()
        state: dict[str, object] = super().getStateToCopyFor(issuer)
        for name in _NOT_COPIED:
            state.pop(name, None)
        return state
