"""
Everything that this package raises of its own, in one tree::

    UpgradeError
    ├── InvalidToken        (ValueError)      text that is no upgrade token
    ├── InvalidUpgrades     (TypeError)       a mapping of upgrades that cannot work
    ├── InvalidPrefaces     (TypeError)       a mapping of prefaces that cannot work
    ├── InvalidArgument     (TypeError)       no endpoint, no site, no observer, no policy ...
    ├── InvalidTarget       (TypeError)       a target that provides no IProtocol
    ├── InvalidPhrase       (TypeError)       a reason phrase that is no bytes
    ├── SwitchRefused                         Request.switch_to cannot switch (now)
    │   ├── NotOffered                        the client did not offer this token
    │   ├── AlreadySwitched                   this request has switched before
    │   ├── ResponseStarted                   an HTTP response is on the wire already
    │   ├── ClientGone                        the connection has ended, or is ending
    │   ├── TooManySwitched                   the site's max_switched is reached
    │   ├── Draining                          the site is going down
    │   └── NotDetachable                     nobody knows who feeds this transport's bytes
    ├── UnsupportedTwisted  (ImportError)     Twisted lacks what this package is built on
    ├── MissingExtra        (ImportError)     an extra of the package is not installed
    ├── AlreadyInstalled                      SwitchedConnection.install, a second time
    ├── InvalidResponse     (ResponseFailed)  a server's answer that breaks the rules
    └── NotSwitched         (ConnectError)    the server answered something else than 101

What stands in brackets is a second base, so that code which knows only Python's or Twisted's own
exceptions catches the right thing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.error import ConnectError
from twisted.python.failure import Failure
from twisted.web.client import ResponseFailed

from .fields import printable

if TYPE_CHECKING:
    from twisted.web.iweb import IResponse

__all__ = [
    "AlreadyInstalled",
    "AlreadySwitched",
    "ClientGone",
    "Draining",
    "InvalidArgument",
    "InvalidPhrase",
    "InvalidPrefaces",
    "InvalidResponse",
    "InvalidTarget",
    "InvalidToken",
    "InvalidUpgrades",
    "MissingExtra",
    "NotDetachable",
    "NotOffered",
    "NotSwitched",
    "ResponseStarted",
    "SwitchRefused",
    "TooManySwitched",
    "UnsupportedTwisted",
    "UpgradeError",
]


class UpgradeError(Exception):
    """What every exception of this package is."""


class InvalidToken(UpgradeError, ValueError):
    """A text is not ``protocol-name["/"protocol-version]`` (RFC 9110 §7.8)."""


class InvalidUpgrades(UpgradeError, TypeError):
    """A mapping of upgrades has a value, or a pair of keys, that cannot work."""


class InvalidPrefaces(UpgradeError, TypeError):
    """A mapping of prefaces has a key that is no text in bytes, or a value that cannot work."""


class InvalidArgument(UpgradeError, TypeError):
    """An argument is not what its place wants: no endpoint, no site, no observer, no policy."""


class InvalidTarget(UpgradeError, TypeError):
    """What was to be installed on a connection does not provide ``IProtocol``."""


class InvalidPhrase(UpgradeError, TypeError):
    """A reason phrase is not ``bytes``."""


class UnsupportedTwisted(UpgradeError, ImportError):
    """
    The Twisted that is installed is too old, or so new that internals of it are gone on which this
    package is built; importing the package fails. The message names the versions.
    """


class MissingExtra(UpgradeError, ImportError):
    """What a module needs, and an extra of this package brings, is not installed."""


class SwitchRefused(UpgradeError):
    """
    ``switch_to`` does not switch. Nothing has been written: the request can still be answered
    in HTTP, except where the subclass says otherwise.
    """


class NotOffered(SwitchRefused):
    """The request's client did not offer this token, or was not eligible to offer any."""


class AlreadySwitched(SwitchRefused):
    """This request has switched before; the connection is its target's."""


class ResponseStarted(SwitchRefused):
    """The head of an HTTP response has been written already, or the request is finished."""


class ClientGone(SwitchRefused):
    """The connection has ended or is being closed: there is nobody to switch with."""


class TooManySwitched(SwitchRefused):
    """As many connections are switched as ``UpgradeSite(max_switched=...)`` allows."""


class Draining(SwitchRefused):
    """``UpgradeSite.drain`` has been called: there are no more switches."""


class NotDetachable(SwitchRefused):
    """The transport delivers its bytes in a way that a takeover cannot redirect."""


class AlreadyInstalled(UpgradeError):
    """A ``SwitchedConnection`` has got its target before."""


class InvalidResponse(UpgradeError, ResponseFailed):
    """
    A server's answer breaks HTTP's rules: a 101 that nobody asked for, one to a token that was not
    offered or without ``Connection: upgrade`` (RFC 9110 §7.8, §15.2.2), or no HTTP at all. The
    connection has been closed.
    """

    def __init__(self, message: str, *reasons: Failure) -> None:
        ResponseFailed.__init__(self, list(reasons))
        self.message = message

    def __str__(self) -> str:
        return self.message


class NotSwitched(UpgradeError, ConnectError):
    """
    The server answered an upgrade in HTTP instead of switching.

    :ivar response: its answer, an ``IResponse`` (treq's, where the request was treq's): ``code``,
        ``headers`` (``Upgrade`` too) and the body are there to be read. The connection closes
        after the body.
    """

    def __init__(self, response: IResponse) -> None:
        ConnectError.__init__(self)
        self.response = response

    def __str__(self) -> str:
        phrase = printable(self.response.phrase.decode("latin-1"))
        said = f"the server did not switch protocols: {self.response.code} {phrase}".rstrip()
        offers = self.response.headers.getRawHeaders(b"upgrade") or ()
        return (
            f"{said} (it offers: {printable(b', '.join(offers).decode('latin-1'))})" if offers else said
        )
