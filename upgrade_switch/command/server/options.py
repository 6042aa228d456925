"""
``upgrade-switch serve``: a site that switches, from the command line.
"""

from __future__ import annotations

import os
import re
from math import inf

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.strcred import AuthOptionMixin
from twisted.python.usage import UsageError

from ...errors import InvalidToken
from ...negotiation import UpgradeToken
from ..listening import LOG_FORMATS
from ..options import CommandOptions
from .auth import checker_of
from .config import apply_config

__all__ = ["ServeOptions"]


class ServeOptions(CommandOptions, AuthOptionMixin):
    """The options of ``serve``."""

    synopsis = "[options]"
    longdesc = (
        "Serves HTTP, and switches connections to other protocols. Without --tunnel: the token echo at "
        "/echo. An ENDPOINT is one of Twisted's strings. SIGTERM ends it: it stops listening, and says "
        "goodbye to switched connections."
    )
    examples: tuple[str, ...] = (
        "upgrade-switch serve --listen tcp:8080 --tunnel '/ssh ssh tcp:127.0.0.1:22'",
        "upgrade-switch serve --listen ssl:8443:privateKey=key.pem:certKey=cert.pem "
        "--files '/ public' --tunnel '/vnc websocket tcp:127.0.0.1:5900' --auth '/vnc file:passwords'",
        "upgrade-switch serve --listen tcp:8080 --preface 'SSH-2.0- tcp:127.0.0.1:22' --status /status",
    )
    optFlags = [  # noqa: RUF012 - twisted.python.usage wants a list
        ["h2c", None, "Speak HTTP/2 without TLS as well: by upgrade, and with prior knowledge."],
    ]
    supportedInterfaces = (IUsernamePassword,)

    def __init__(self) -> None:
        super().__init__()
        self.listen: list[str] = []
        self.tunnels: list[tuple[str, str, str]] = []
        self.classes: dict[str, str] = {}
        self.files: dict[str, str] = {}
        self.origins: list[str] = []
        self.prefaces: dict[bytes, str] = {}
        self.checkers: dict[str, list[ICredentialsChecker]] = {}
        self.password_files: list[str] = []
        self.status: str | None = None
        self.drain: float | None = None
        self.log_format: str | None = None
        self.access_log: str | None = None
        self.config: str | None = None

    def parseArgs(self, *arguments: str) -> None:
        if arguments:
            raise UsageError(f"there are options only, not {arguments[0]!r}")

    def opt_listen(self, endpoint: str) -> None:
        """
        Where to listen, as a server endpoint string (tcp:8080:interface=127.0.0.1, unix:/run/x.sock,
        ssl:8443:privateKey=key.pem:certKey=cert.pem, systemd:domain=INET:index=0); may be given several
        times. [default: tcp:8080:interface=127.0.0.1]
        """
        self.listen.append(endpoint)

    def opt_tunnel(self, value: str) -> None:
        """
        'PATH TOKEN ENDPOINT': carry upgrades to TOKEN at PATH to a client endpoint string
        (tcp:127.0.0.1:22); may be given several times. With TOKEN websocket, in binary messages, as
        noVNC and other clients in browsers speak them.
        """
        parts = value.split(None, 2)
        if len(parts) != 3 or not _is_path(parts[0]):
            raise UsageError(f"--tunnel wants '/PATH TOKEN ENDPOINT', not {value!r}")
        path, token, endpoint = parts
        try:
            UpgradeToken.parse(token)
        except InvalidToken as error:
            raise UsageError(f"--tunnel {value!r}: {error}") from None
        self.tunnels.append((path.rstrip("/") or "/", token, endpoint))

    def opt_class(self, value: str) -> None:
        """
        'PATH MODULE.CLASS': put a resource (IResource), made by calling the class without arguments,
        at PATH; Python looks for the module where it looks for all (PYTHONPATH). May be given several
        times.
        """
        parts = value.split()
        path = parts[0].rstrip("/") if parts else ""
        if len(parts) != 2 or not _is_path(path):
            raise UsageError(f"--class wants '/PATH MODULE.CLASS', not {value!r}")
        if path in self.classes:
            raise UsageError(f"--class: {path} is here twice")
        self.classes[path] = parts[1]

    def opt_files(self, value: str) -> None:
        """
        'PATH DIRECTORY': serve the files of a directory, and those below it, at PATH; at / in place of
        the page that is there. Names that begin with a dot are not served (.well-known is), symbolic
        links are followed. May be given several times.
        """
        path, _, directory = value.strip().partition(" ")
        path, directory = path.rstrip("/") or "/", directory.strip()
        if not _is_path(value) or not directory:
            raise UsageError(f"--files wants '/PATH DIRECTORY', not {value!r}")
        if path in self.files:
            raise UsageError(f"--files: {path} is here twice")
        if not os.path.isdir(directory):
            raise UsageError(f"--files: there is no directory {directory!r}")
        self.files[path] = directory

    def opt_auth(self, value: str) -> None:
        """
        METHOD or 'PATH METHOD': ask for a name and a password (HTTP Basic) on the whole site, or at
        PATH and below it, where the longest PATH decides alone. METHOD is one of Twisted's: file:FILE
        with lines name:password (no colon in it), memory:name:password, which others on this machine
        can see ... (--help-auth lists them). May be given several times. Who connects with a --preface
        is not asked.
        """
        path, method = "/", value.strip()
        if method.startswith("/"):
            path, _, method = method.partition(" ")
        if not _is_path(path) or not method.strip():
            raise UsageError("--auth wants METHOD or '/PATH METHOD'")
        checker = checker_of(method.strip())
        self.checkers.setdefault(path.rstrip("/") or "/", []).append(checker)
        kind, _, argument = method.strip().partition(":")
        if kind == "file":
            self.password_files.append(argument)

    def opt_status(self, path: str) -> None:
        """
        PATH: show there what is switched now, and what was declined: a page, JSON at PATH/json,
        Prometheus' text at PATH/metrics. It tells who is connected: where --auth guards other paths
        only, any of their passwords is asked for.
        """
        if not _is_path(path) or not path.strip("/"):
            raise UsageError(f"--status wants a /PATH, not {path!r}")
        self.status = path.rstrip("/")

    def opt_origin(self, origin: str) -> None:
        """
        A page's origin (https://example.com) from which a browser may open the tunnels for
        WebSockets, besides clients that are no browsers; * is any; may be given several times.
        [default: this site's own pages]
        """
        self.origins.append(origin)

    def opt_preface(self, value: str) -> None:
        """
        'PREFACE ENDPOINT': carry connections that begin with PREFACE in place of a request
        (SSH-2.0-) to a client endpoint string; may be given several times. In PREFACE, \\r, \\n,
        \\t, \\xHH and \\\\ are bytes (a space is \\x20); one that ends in its only \\r\\n is
        looked for between two requests, too.
        """
        parts = value.split(None, 1)
        if len(parts) != 2:
            raise UsageError(f"--preface wants 'PREFACE ENDPOINT', not {value!r}")
        preface, endpoint = parts
        key = _unescaped(preface)
        if key in self.prefaces:
            raise UsageError(f"--preface: {preface!r} is here twice")
        self.prefaces[key] = endpoint

    def opt_drain(self, seconds: str) -> None:
        """
        How many seconds switched connections have to end by themselves when the server goes down; then
        they are aborted. [default: 5]
        """
        try:
            self.drain = float(seconds)
        except ValueError:
            self.drain = inf
        if not 0 <= self.drain < inf:
            raise UsageError(f"--drain wants a number of seconds, not {seconds!r}")

    def opt_log_format(self, name: str) -> None:
        """
        How each switch and its end, and what goes wrong, is logged on standard error: text, json (a
        line each, with Twisted's fields), or none. [default: text]
        """
        if name not in LOG_FORMATS:
            raise UsageError(f"--log-format wants {', '.join(LOG_FORMATS)}, not {name!r}")
        self.log_format = name

    def opt_access_log(self, file: str) -> None:
        """
        A file for a line for each request, in combined format; - is standard output.
        """
        self.access_log = file

    def opt_config(self, file: str) -> None:
        """
        A TOML file with options: listen = ["tcp:8080"], h2c = true, drain = 10. An option that may
        be given several times has a list there, to which the command line adds; of the others the
        command line wins.
        """
        self.config = file

    def postOptions(self) -> None:
        if self.config is not None:
            apply_config(self, self.config)


def _is_path(text: str) -> bool:
    return text.startswith("/") and not set("?#") & set(text)


_ESCAPE = re.compile(r"\\(?:([rnt\\])|x([0-9A-Fa-f]{2})|)")
_ESCAPED = {"r": b"\r", "n": b"\n", "t": b"\t", "\\": b"\\"}


def _unescaped(text: str) -> bytes:
    """The bytes that a preface on the command line stands for."""
    preface, begun = b"", 0
    for match in _ESCAPE.finditer(text):
        if match[0] == "\\":
            raise UsageError(f"--preface: not an escape that is known here: {text!r}")
        preface += os.fsencode(text[begun : match.start()])
        preface += _ESCAPED[match[1]] if match[1] else bytes.fromhex(match[2])
        begun = match.end()
    return preface + os.fsencode(text[begun:])
