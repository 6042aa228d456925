"""
The options of ``upgrade-switch probe``.
"""

from __future__ import annotations

import ssl
from functools import cache
from math import inf
from urllib.parse import urlsplit

from twisted.python.usage import UsageError

from ...client.urls import http_url
from ...errors import InvalidToken
from ...fields import is_authority
from ...negotiation import UpgradeToken
from ..fields import header
from ..options import CommandOptions
from ..secrets import field_lines
from .subject import HTTP11, Subject

__all__ = ["ProbeOptions"]

_WEBSOCKET = "websocket"


def _seconds(option: str) -> object:
    def parse(text: str) -> float:
        try:
            seconds = float(text)
        except ValueError:
            seconds = 0
        if not 0 < seconds < inf:
            # twisted.python.usage would add words of its own to a ValueError.
            raise UsageError(f"--{option} needs a number of seconds above 0, not {text!r}")
        return seconds

    return parse


def _jobs(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:9]) <= 64:
        raise UsageError(f"--jobs needs a number from 1 to 64, not {text!r}")
    return int(text)


def _address(text: str) -> tuple[str, int]:
    if not is_authority(text.encode("utf-8")):
        raise UsageError(f"--listen needs HOST:PORT, not {text!r}")
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


class ProbeOptions(CommandOptions):
    """The options of ``probe``."""

    synopsis = "[options] URL [TOKEN]..."
    longdesc = (
        "Asks a server what it switches to: the tokens that it names itself, those that you give, "
        "WebSocket, h2c, and upgrades over HTTP/2. With --conformance, checks how it switches to TOKEN "
        "(by default websocket). The target must send back what it receives; a WebSocket server need "
        "only answer pings. With --through, checks how a proxy passes on an upgrade to TOKEN. Exit "
        "codes: 0 nothing failed that an RFC demands; 1 something did; 2 usage error; 3 the server "
        "could not be reached, or does not speak HTTP, or the proxy does not forward to --listen."
    )
    examples: tuple[str, ...] = (
        "upgrade-switch probe https://example.com/",
        "upgrade-switch probe --conformance http://127.0.0.1:8080/echo echo",
        "upgrade-switch probe --conformance --json ws://127.0.0.1:8080/chat > report.json",
        "upgrade-switch probe --through http://127.0.0.1:8080/ --listen 127.0.0.1:9000",
    )
    optParameters = [  # noqa: RUF012 - twisted.python.usage wants a list
        [
            "timeout",
            None,
            5.0,
            "Seconds for each check; if it opens several connections, for each of them.",
            _seconds("timeout"),
        ],
        [
            "within",
            None,
            300.0,
            "Seconds for the whole run; checks that have not finished by then are skipped.",
            _seconds("within"),
        ],
        [
            "jobs",
            None,
            1,
            "With --conformance or --through: how many checks run at once (1 to 64).",
            _jobs,
        ],
        [
            "slow",
            None,
            None,
            "With --conformance or --through: leave a switched connection alone for so many seconds, "
            "more than the server's time-out for requests, to see whether it stays open.",
            _seconds("slow"),
        ],
        [
            "through",
            None,
            None,
            "Check the proxy at this URL, in front of a server that the probe itself serves: needs "
            "--listen.",
        ],
        [
            "listen",
            None,
            None,
            "HOST:PORT: with --through, where the probe listens. Configure the proxy to forward to it, "
            "and to pass TOKEN.",
            _address,
        ],
        ["ca", None, None, "Trust the certificates in this file (PEM) instead of the system's."],
    ]
    optFlags = [  # noqa: RUF012 - twisted.python.usage wants a list
        ["conformance", None, "Check how the server switches."],
        ["insecure", None, "Accept any certificate."],
        ["json", None, "Write what was found as JSON."],
        ["verbose", None, "With --conformance or --through: show the bytes of each check."],
    ]

    def __init__(self) -> None:
        super().__init__()
        self.fields: list[str] = []
        self.url = ""
        self.tokens: list[str] = []

    def opt_header(self, value: str) -> None:
        """
        'NAME: VALUE' or @FILE: send this field with each request, or those in FILE, one per line. May
        be given several times.
        """
        lines = field_lines(value[1:]) if value.startswith("@") else [(None, value)]
        for source, line in lines:
            name, content = header(line, source)
            if name.lower() == "host":
                raise UsageError("--header Host: the probe sets this field")
            self.fields.append(f"{name}: {content.decode('latin-1')}")

    def parseArgs(self, *arguments: str) -> None:
        if self["through"] is not None:
            arguments = (self["through"], *arguments)
        if not arguments:
            raise UsageError("a URL is needed")
        url, *tokens = arguments
        try:
            if "@" in urlsplit(url).netloc:
                raise UsageError("a user name in the URL is not allowed: use --header")
            self.tokens = [str(UpgradeToken.parse(token)) for token in tokens]
            self.url = http_url(url, websocket=True).decode("ascii")
        except (InvalidToken, ValueError) as error:
            raise UsageError(str(error)) from None

    def postOptions(self) -> None:
        if (self["through"] is None) != (self["listen"] is None):
            raise UsageError("--through URL and --listen HOST:PORT need each other: see --help")
        if self["conformance"] and self["through"] is not None:
            raise UsageError("--conformance and --through cannot be combined")
        does_check = self["conformance"] or self["through"] is not None
        if does_check and len(self.tokens) > 1:
            raise UsageError("--conformance and --through check one TOKEN")
        for option in ("slow", "verbose"):
            if self[option] and not does_check:
                raise UsageError(f"--{option} needs --conformance or --through")
        if self["slow"] and self["slow"] >= self["within"]:
            raise UsageError("--slow needs more time than --within gives: raise it, too")
        if self["ca"] and self["insecure"]:
            raise UsageError("--ca and --insecure cannot be combined")
        if (self["ca"] or self["insecure"]) and not self.url.startswith("https:"):
            raise UsageError("--ca and --insecure are for https and wss URLs only")

    def subject(self) -> Subject:
        """
        The server, as these options say.

        :raises UsageError: if ``--ca`` cannot be read.
        """
        contexts = None
        if self.url.startswith("https:"):
            contexts = cache(self._context)
            contexts(HTTP11)
        token = self.tokens[0] if self.tokens else _WEBSOCKET
        return Subject(self.url, token, self.fields, contexts, self["slow"], self["timeout"])

    def _context(self, alpn: tuple[str, ...]) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self["ca"])
        except (OSError, ValueError) as error:
            raise UsageError(
                f"--ca {self['ca']}: {getattr(error, 'strerror', None) or error}"
            ) from None
        if self["insecure"]:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(alpn)
        return context
