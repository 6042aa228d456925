"""
Every exception that this package defines, in one tree::

    UpgradeError
    ├── InvalidToken        (ValueError)      a string that is not an upgrade token
    ├── InvalidUpgrades     (TypeError)       a mapping of upgrades that cannot work
    ├── InvalidPrefaces     (TypeError)       a mapping of prefaces that cannot work
    ├── InvalidArgument     (TypeError)       an argument of the wrong kind
    ├── InvalidTarget       (TypeError)       a target that does not provide IProtocol
    ├── InvalidPhrase       (TypeError)       a reason phrase that is not bytes
    ├── SwitchRefused                         Request.switch_to cannot switch (now)
    │   ├── NotOffered                        the client did not offer this token
    │   ├── AlreadySwitched                   this request has switched before
    │   ├── ResponseStarted                   an HTTP response has been started already
    │   ├── ContentUnread                     the request's content has not been read to its end
    │   ├── ClientGone                        the connection has ended, or is ending
    │   ├── TooManySwitched                   a limit of the site is reached
    │   ├── Draining                          the site is going down
    │   └── NotDetachable                     the transport's bytes cannot be redirected
    ├── UnsupportedTwisted  (ImportError)     Twisted lacks something that this package needs
    ├── MissingExtra        (ImportError)     what an extra brings is missing, or does not fit
    ├── AlreadyInstalled                      SwitchedConnection.install, a second time
    ├── NotRead      (ConnectionAborted)      a client left more unread than max_unsent
    ├── AlreadyStreamed                       Request.stream_content, a second time
    ├── InvalidContent      (ValueError)      a request's content that breaks the rules
    ├── InvalidCapsule      (ValueError)      a stream of capsules that breaks the rules
    ├── DestinationRefused                    a destination that a client may not reach
    │   ├── DestinationNotAllowed             its name or port is not allowed
    │   └── AddressProhibited                 its address is not allowed
    ├── NameNotResolved     (DNSLookupError)  the name of a destination has no address
    ├── StreamClosed       (ConnectionClosed)  a WebSocket that is closed
    ├── InvalidResponse     (ResponseFailed)  a server's answer that breaks the rules
    └── NotSwitched         (ConnectError)    the server, or a proxy, did not switch

The class in brackets is a second base, so that code which knows only Python's or Twisted's own
exceptions catches the right thing. Where the time for connecting is over, what is raised is Twisted's
own ``twisted.internet.error.TimeoutError``, which is a ``ConnectError`` too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from twisted.internet.error import (
    ConnectError,
    ConnectionAborted,
    ConnectionClosed,
    DNSLookupError,
    TimeoutError,
)
from twisted.python.failure import Failure
from twisted.web.client import ResponseFailed

from .fields import printable

if TYPE_CHECKING:
    from twisted.web.iweb import IResponse

# Not here: what this package alone uses.
__all__ = [
    "AddressProhibited",
    "AlreadyInstalled",
    "AlreadyStreamed",
    "AlreadySwitched",
    "ClientGone",
    "ContentUnread",
    "DestinationNotAllowed",
    "DestinationRefused",
    "Draining",
    "InvalidArgument",
    "InvalidCapsule",
    "InvalidContent",
    "InvalidPhrase",
    "InvalidPrefaces",
    "InvalidResponse",
    "InvalidTarget",
    "InvalidToken",
    "InvalidUpgrades",
    "MissingExtra",
    "NameNotResolved",
    "NotDetachable",
    "NotOffered",
    "NotRead",
    "NotSwitched",
    "ResponseStarted",
    "StreamClosed",
    "SwitchRefused",
    "TooManySwitched",
    "UnsupportedTwisted",
    "UpgradeError",
]


class UpgradeError(Exception):
    """The base class of every exception in this module."""


class InvalidToken(UpgradeError, ValueError):
    """Raised when a string is not ``protocol-name["/"protocol-version]`` (RFC 9110 §7.8)."""


class InvalidUpgrades(UpgradeError, TypeError):
    """Raised when a mapping of upgrades has a value, or a pair of keys, that cannot work."""


class InvalidPrefaces(UpgradeError, TypeError):
    """
    Raised when a mapping of prefaces has a key that is not a non-empty ``bytes``, or a value that
    cannot work.
    """


class InvalidArgument(UpgradeError, TypeError):
    """
    Raised when an argument is not of the kind that is needed, such as a policy that is not an
    ``IPolicyForHTTPS``, or an observer that is not an ``ISwitchObserver``.
    """


class InvalidTarget(UpgradeError, TypeError):
    """Raised when an object that does not provide ``IProtocol`` is to be installed as a target."""


class InvalidPhrase(UpgradeError, TypeError):
    """Raised when a reason phrase is not ``bytes``."""


class UnsupportedTwisted(UpgradeError, ImportError):
    """
    Raised on import when the installed Twisted is too old for this package, or so new that internals
    on which this package depends are gone. The message names the versions.
    """


class MissingExtra(UpgradeError, ImportError):
    """
    Raised when a module needs a package that only an extra of this package installs, and that
    package is missing, or lacks something. The message says what to install, or what is lacking.
    """


class SwitchRefused(UpgradeError):
    """
    Raised when ``switch_to`` cannot switch. Nothing has been written: the request can still be
    answered in HTTP, unless the subclass says otherwise.
    """


class NotOffered(SwitchRefused):
    """Raised when the client did not offer this token, or was not eligible to offer any."""


class AlreadySwitched(SwitchRefused):
    """Raised when this request has switched before: its target owns the connection."""


class ResponseStarted(SwitchRefused):
    """Raised when the head of an HTTP response has been written, or the request is finished."""


class ContentUnread(SwitchRefused):
    """
    Raised when the request's content is streamed (``IStreamsContent``) and ``stream_content`` has not
    come to its end: the rest of it would be taken for bytes of the new protocol.
    """


class ClientGone(SwitchRefused):
    """Raised when the connection has ended or is being closed: there is no client to switch with."""


class TooManySwitched(SwitchRefused):
    """
    Raised when as many connections are switched already as ``UpgradeSite(max_switched=...)`` allows, or
    ``max_per_address`` for this client.
    """


class Draining(SwitchRefused):
    """Raised when ``UpgradeSite.drain`` has been called: the site switches no more connections."""


class NotDetachable(SwitchRefused):
    """Raised when the transport delivers its bytes in a way that a takeover cannot redirect."""


class AlreadyInstalled(UpgradeError):
    """Raised when a ``SwitchedConnection`` already has its target."""


class NotRead(UpgradeError, ConnectionAborted):
    """A connection was aborted because its client left more unread than ``max_unsent`` allows."""


class StreamClosed(UpgradeError, ConnectionClosed):
    """
    A WebSocket is closed: nothing more is received, and nothing can be sent.

    :ivar code: the close code (RFC 6455 §7.4); 1006: the connection ended without a Close frame.
    :ivar reason: the text that came with it.
    """

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"the WebSocket is closed ({code} {reason}".rstrip() + ")")
        self.code = code
        self.reason = reason


class AlreadyStreamed(UpgradeError):
    """Raised when ``stream_content`` has been called before."""


class InvalidContent(UpgradeError, ValueError):
    """
    The failure of ``stream_content`` when a client's content breaks the chunked grammar (RFC 9112
    §7.1). The connection is being closed.
    """


class InvalidCapsule(UpgradeError, ValueError):
    """
    Why a connection with capsules (``connect_udp``, ``open_udp``) was aborted, if the other end has
    broken their rules (RFC 9297 §3.3, RFC 9298 §5).
    """


class DestinationRefused(UpgradeError):
    """Raised when a client names a destination that a ``Destinations`` does not allow."""


class DestinationNotAllowed(DestinationRefused):
    """Raised when the name or the port of a destination is not allowed, or is not a name."""


class AddressProhibited(DestinationRefused):
    """Raised when the address of a destination, or each address of its name, is not allowed."""


class NameNotResolved(UpgradeError, DNSLookupError):
    """Raised when the name of a destination has no address."""


class InvalidResponse(UpgradeError, ResponseFailed):
    """
    Raised when a server's answer breaks the rules of HTTP: a 101 that the client did not ask for, a
    101 to a token that was not offered or without ``Connection: upgrade`` (RFC 9110 §7.8, §15.2.2),
    or bytes that are not HTTP at all. The connection has been closed.

    :ivar message: what is wrong with the answer.
    :ivar reasons: the failures behind it, if there are any.
    """

    def __init__(self, message: str, *reasons: Failure) -> None:
        ResponseFailed.__init__(self, list(reasons))
        self.message = message

    def __str__(self) -> str:
        return self.message


class NotSwitched(UpgradeError, ConnectError):
    """
    Raised when a response is not a switch: the server answered an upgrade in HTTP, a proxy did not open
    the tunnel, or the request did not ask for an upgrade in a way that can work (the message says
    which).

    :ivar response: the answer, an ``IResponse`` (treq's, if the request was treq's). Its ``code``,
        its ``headers`` (``Upgrade`` too) and its body can be read. The connection of a refused
        upgrade, over HTTP/2 its stream, closes after the body.
    """

    def __init__(self, response: IResponse, why: str = "the server did not switch protocols") -> None:
        """
        :param response: the answer.
        :param why: why it is not a switch; the answer's code and phrase follow it in the message.
        """
        ConnectError.__init__(self)
        self.response = response
        self._why = why

    def __str__(self) -> str:
        phrase = printable(self.response.phrase.decode("latin-1"))
        message = f"{self._why}: {self.response.code} {phrase}".rstrip()
        lines = self.response.headers.getRawHeaders(b"upgrade")
        if not lines:
            return message
        return f"{message} (it offers: {printable(b', '.join(lines).decode('latin-1'))})"


def cause_of(failure: Failure) -> BaseException:
    """
    The exception at the bottom of a failure: Twisted's HTTP client wraps network errors in its own
    (``ResponseFailed`` and the like), which have ``reasons`` in place of a message.

    :return: the innermost exception; the failure's own if it wraps none.
    """
    value = failure.value
    while not getattr(value, "message", ""):
        reasons: list[Failure] | None = getattr(value, "reasons", None)
        if not reasons:
            break
        value = reasons[0].value
    assert value is not None
    return value


def connect_timed_out(what: str) -> Callable[[object, float], NoReturn]:
    """
    What to do when the time for a connection is over, for ``Deferred.addTimeout``::

        connecting.addTimeout(30, reactor, connect_timed_out("no switch"))

    The Deferred then fails with ``twisted.internet.error.TimeoutError``, as Twisted's own endpoints do:
    code that catches ``ConnectError`` catches it. (Python's builtin ``TimeoutError``, and the one of
    ``twisted.internet.defer``, are not ``ConnectError``.)

    :param what: what has not happened; the message is such as "no switch within 30 seconds", and goes
        on with what is known about the cause.
    :return: the callable to give to ``addTimeout``.
    """

    def raise_timeout(result: object, seconds: float) -> NoReturn:
        known = cause_of(result).args if isinstance(result, Failure) else ()
        because = f": {known[0]}" if known and isinstance(known[0], str) else ""
        raise TimeoutError(f"{what} within {seconds:g} seconds{because}")

    return raise_timeout
