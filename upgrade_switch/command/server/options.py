"""
``upgrade-switch serve``: a site that switches, from the command line.
"""

from __future__ import annotations

import os
import re

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.strcred import AuthOptionMixin
from twisted.python.usage import UsageError

from ...errors import InvalidArgument
from ...protocols._connect import Destinations
from ..listening import LOG_FORMATS
from .auth import checker_of
from .config import REPEATED, Value, read_config
from .limits import LimitOptions
from .operating import OperatingOptions, seconds_of
from .paths import is_path
from .proxy import ProxyOption, proxy_of_table, proxy_of_words
from .tunnels import TunnelOption, tunnel_of_words

__all__ = ["ServeOptions"]


class ServeOptions(LimitOptions, OperatingOptions, AuthOptionMixin):
    """
    The options of ``serve``.

    :ivar read: what the file with options says. A worker is told: the file may be another by then.
    """

    synopsis = "[options]"
    longdesc = (
        "Serves HTTP, and switches connections to other protocols. Without --tunnel, it serves the "
        "token echo at /echo, unless a --proxy is at /. An ENDPOINT is a Twisted endpoint string. "
        "SIGTERM ends the server: it stops listening, and gives switched connections time to end "
        "(--drain). SIGHUP makes it read its options again, and the files that they name."
    )
    examples: tuple[str, ...] = (
        "upgrade-switch serve --listen tcp:8080 --tunnel '/ssh ssh tcp:127.0.0.1:22'",
        "upgrade-switch serve --listen ssl:8443:privateKey=key.pem:certKey=cert.pem "
        "--files '/ public' --tunnel '/vnc websocket tcp:127.0.0.1:5900' --auth '/vnc file:passwords'",
        "upgrade-switch serve --listen tcp:8080 --preface 'SSH-2.0- tcp:127.0.0.1:22' "
        "--proxy '/ http://127.0.0.1:8000' --status /status",
    )
    optFlags = [  # noqa: RUF012 - twisted.python.usage wants a list
        ["h2c", None, "Speak HTTP/2 without TLS too: by upgrade, and with prior knowledge."],
        ["http2-connect", None, "Let HTTP/2 streams switch, too (RFC 8441)."],
        [
            "udp",
            None,
            "Carry UDP, too, to what --connect-to allows (connect-udp at /.well-known/masque/udp).",
        ],
        [
            "forgive-truncation",
            None,
            "In tunnels, treat TLS that ends without its closing alert as a clean end.",
        ],
    ]
    supportedInterfaces = (IUsernamePassword,)

    def __init__(self) -> None:
        super().__init__()
        self.listen: list[str] = []
        self.tunnels: list[TunnelOption] = []
        self.targets: list[TunnelOption] = []
        self.classes: dict[str, str] = {}
        self.files: dict[str, str] = {}
        self.proxies: dict[str, ProxyOption] = {}
        self.origins: list[str] = []
        self.prefaces: dict[bytes, str] = {}
        self.connect_to: list[str] = []
        self.checkers: dict[str, list[ICredentialsChecker]] = {}
        self.secret_files: list[str] = []
        self.status: str | None = None
        self.drain: float | None = None
        self.log_format: str | None = None
        self.access_log: str | None = None
        self.client_ca: str | None = None
        self.config: str | None = None
        self.read: list[tuple[str, Value]] | None = None

    def parseArgs(self, *arguments: str) -> None:
        if arguments:
            raise UsageError(f"unexpected argument {arguments[0]!r}: serve takes only options")

    def opt_listen(self, endpoint: str) -> None:
        """
        ENDPOINT: listen there, a server endpoint string (tcp:8080:interface=127.0.0.1,
        unix:/run/x.sock, ssl:8443:privateKey=key.pem:certKey=cert.pem, systemd:domain=INET:index=0).
        May be given several times. [default: tcp:8080:interface=127.0.0.1]
        """
        self.listen.append(endpoint)

    def opt_tunnel(self, value: str) -> None:
        """
        'PATH TOKEN ENDPOINT [proxy-protocol]': at PATH, tunnel upgrades to TOKEN to a client endpoint
        string (tcp:127.0.0.1:22). With the token websocket, the bytes travel in binary messages, as
        noVNC and other clients in browsers send them. With proxy-protocol, that server is first told
        the client's address, by the PROXY protocol's version 2. May be given several times.
        """
        self.tunnels.append(tunnel_of_words("tunnel", "ENDPOINT", value))

    def opt_targets(self, value: str) -> None:
        """
        'PATH TOKEN FILE [proxy-protocol]': at PATH/NAME, or PATH?token=NAME, tunnel upgrades to TOKEN
        to the server that FILE lists as NAME, in a line 'NAME: ENDPOINT', or 'NAME: HOST:PORT' as for
        websockify. FILE is read again when it has changed. Everything else is as with --tunnel. May be
        given several times.
        """
        targets = tunnel_of_words("targets", "FILE", value)
        if targets.path == "/":
            raise UsageError("--targets needs a /PATH, not /")
        self.targets.append(targets)
        self.secret_files.append(targets.where)

    def opt_class(self, value: str) -> None:
        """
        'PATH MODULE.CLASS': serve a resource of your own (IResource) at PATH. The class is called
        without arguments; its module must be importable (see PYTHONPATH). May be given several times.
        """
        parts = value.split()
        path = parts[0].rstrip("/") if parts else ""
        if len(parts) != 2 or not is_path(path):
            raise UsageError(f"--class needs '/PATH MODULE.CLASS', not {value!r}")
        if path in self.classes:
            raise UsageError(f"--class: {path} is given twice")
        self.classes[path] = parts[1]

    def opt_files(self, value: str) -> None:
        """
        'PATH DIRECTORY': serve the files in a directory and below it at PATH; at /, they replace the
        built-in page. Names that begin with a dot are not served, except .well-known; symbolic links
        are followed. May be given several times.
        """
        path, _, directory = value.strip().partition(" ")
        path, directory = path.rstrip("/") or "/", directory.strip()
        if not is_path(value) or not directory:
            raise UsageError(f"--files needs '/PATH DIRECTORY', not {value!r}")
        if path in self.files:
            raise UsageError(f"--files: {path} is given twice")
        if not os.path.isdir(directory):
            raise UsageError(f"--files: no such directory: {directory!r}")
        self.files[path] = directory

    def opt_proxy(self, value: str) -> None:
        """
        'PATH URL [URL...] [NAME=VALUE...]': pass requests for PATH and below on to the server at URL
        (http://127.0.0.1:8000, https://..., unix:/run/app.sock), upgrades to WebSocket too. Of several
        servers, the one with the fewest requests gets the next. Of all options that take a PATH, the
        longest that matches counts. A NAME is tokens (of other upgrades: websocket,chat),
        preserve-host, rewrite-location, rewrite-cookies, lenient (true or false), trusted (networks of
        proxies in front), connect-timeout, response-timeout, idle-timeout (seconds), max-body (bytes),
        sticky (address, or a cookie's name), health (a path to check servers by) or ca (a file of
        certificates for https). May be given several times.
        """
        self._add_proxy(proxy_of_words(value))

    def _add_proxy(self, proxy: ProxyOption) -> None:
        if proxy.path in self.proxies:
            raise UsageError(f"--proxy: {proxy.path} is given twice")
        self.proxies[proxy.path] = proxy

    def opt_auth(self, value: str) -> None:
        """
        METHOD or 'PATH METHOD': require a user name and a password (HTTP Basic) for the whole site, or
        for PATH and below; of several PATHs, only the longest that matches counts. METHOD is one of
        Twisted's: file:FILE, with lines name:password (no other colons), or memory:name:password, which
        other users of this machine can see (--help-auth lists all methods). May be given several times.
        A connection that begins with a --preface needs no password.
        """
        path, method = "/", value.strip()
        if method.startswith("/"):
            path, _, method = method.partition(" ")
        if not is_path(path) or not method.strip():
            raise UsageError("--auth needs METHOD or '/PATH METHOD'")
        checker = checker_of(method.strip())
        self.checkers.setdefault(path.rstrip("/") or "/", []).append(checker)
        kind, _, argument = method.strip().partition(":")
        if kind == "file":
            self.secret_files.append(argument)

    def opt_client_ca(self, file: str) -> None:
        """
        FILE: let in only clients with a certificate that was issued by one of those in FILE (PEM); its
        subject becomes the connection's user. For ssl: endpoints only.
        """
        self.client_ca = file

    def opt_status(self, path: str) -> None:
        """
        PATH: show there which connections are switched, and which requests were declined: as a page,
        as JSON at PATH/json, for Prometheus at PATH/metrics. It reveals who is connected: if --auth
        protects only other paths, it requires one of their passwords.
        """
        if not is_path(path) or not path.strip("/"):
            raise UsageError(f"--status needs a /PATH, not {path!r}")
        self.status = path.rstrip("/")

    def opt_origin(self, origin: str) -> None:
        """
        ORIGIN: let pages of this origin (https://example.com) open WebSocket tunnels; * means any.
        Clients other than browsers may always open them. May be given several times.
        [default: pages of this site]
        """
        self.origins.append(origin)

    def opt_preface(self, value: str) -> None:
        """
        'PREFACE ENDPOINT': tunnel connections that begin with PREFACE instead of a request
        (SSH-2.0-) to a client endpoint string. In PREFACE, \\r, \\n, \\t, \\xHH and \\\\
        stand for bytes (\\x20 is a space). A PREFACE that is one whole line, ending in \\r\\n, is
        also recognized between two requests. May be given several times.
        """
        parts = value.split(None, 1)
        if len(parts) != 2:
            raise UsageError(f"--preface needs 'PREFACE ENDPOINT', not {value!r}")
        preface, endpoint = parts
        key = _unescaped(preface)
        if key in self.prefaces:
            raise UsageError(f"--preface: {preface!r} is given twice")
        self.prefaces[key] = endpoint

    def opt_connect_to(self, destination: str) -> None:
        """
        'HOST:PORTS': be a proxy: connect clients that send CONNECT to these destinations. HOST is a
        name, *.example.com (the names below it), * (everywhere but to private networks), an address or
        a network (10.0.0.0/8, [2001:db8::/32]); PORTS is a number, 8000-8099 or *. Addresses that are
        not global (loopback, private) must be given as addresses, whatever names lead to them;
        localhost means loopback. With --auth, which must then be for the whole site, CONNECT needs
        Proxy-Authorization. May be given several times.
        """
        try:
            Destinations(destination)
        except InvalidArgument as error:
            raise UsageError(f"--connect-to: {error}") from None
        self.connect_to.append(destination)

    def opt_drain(self, seconds: str) -> None:
        """
        SECONDS: how long switched connections may go on when the server shuts down, before they are
        aborted. [default: 5]
        """
        self.drain = seconds_of("drain", seconds)

    def opt_log_format(self, name: str) -> None:
        """
        FORMAT: how switches, their ends and errors are logged on standard error: text, json (one line
        each, with Twisted's fields), or none. [default: text]
        """
        if name not in LOG_FORMATS:
            raise UsageError(f"--log-format must be one of {', '.join(LOG_FORMATS)}, not {name!r}")
        self.log_format = name

    def opt_access_log(self, file: str) -> None:
        """
        FILE: write a line for each request to this file, in combined format; - is standard output.
        """
        self.access_log = file

    def opt_config(self, file: str) -> None:
        """
        FILE: read options from a TOML file: listen = ["tcp:8080"], h2c = true, drain = 10. An option
        that may be given several times takes a list, to which the command line adds; all other options
        are overridden by the command line.
        """
        self.config = file

    def postOptions(self) -> None:
        if self.config is not None:
            self._read(self.config)
        if self["udp"] and not self.connect_to:
            raise UsageError("--udp needs --connect-to, which says where clients may go")

    def _read(self, config: str) -> None:
        try:
            if self.read is None:
                self.read = list(read_config(config))
            for name, value in self.read:
                self._set(name, value)
        except UsageError as error:
            raise UsageError(f"--config {config}: {error}") from None

    def _set(self, name: str, value: Value) -> None:
        """Set what a file says, unless the command line has said something else."""
        attribute = name.replace("-", "_")
        if isinstance(value, bool):
            self[name] = bool(self[name]) or value
        elif isinstance(value, dict):
            self._add_proxy(proxy_of_table(value))
        elif name in REPEATED or getattr(self, attribute) is None:
            getattr(self, f"opt_{attribute}")(value)


_ESCAPE = re.compile(r"\\(?:([rnt\\])|x([0-9A-Fa-f]{2})|)")
_ESCAPED = {"r": b"\r", "n": b"\n", "t": b"\t", "\\": b"\\"}


def _unescaped(text: str) -> bytes:
    """The bytes that a preface on the command line means."""
    preface, begun = b"", 0
    for match in _ESCAPE.finditer(text):
        if match[0] == "\\":
            raise UsageError(f"--preface: unknown escape in {text!r}")
        preface += os.fsencode(text[begun : match.start()])
        preface += _ESCAPED[match[1]] if match[1] else bytes.fromhex(match[2])
        begun = match.end()
    return preface + os.fsencode(text[begun:])
