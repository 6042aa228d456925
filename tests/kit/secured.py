"""Servers' sides of TLS that are played by hand, on a thread's blocking socket."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.kit.certificate import CERTIFICATE_PEM, KEY_PEM
from tests.kit.commands import read_all, switch

__all__ = ["Secured"]


class Secured:
    """
    A server's side of TLS, from the handshake to the end of the answer, and how it ends.

    :ivar authority: the file with the certificate that its clients have to trust.
    """

    def __init__(
        self,
        directory: Path,
        open_it: Callable[[Any], object] = switch,
        data: bytes = b"some",
        last: bytes = b"",
    ) -> None:
        """
        :param open_it: answers the upgrade.
        :param data: what it sends then.
        :param last: what the protocol sends before a clean end of TLS.
        """
        self._open_it, self._data, self._last = open_it, data, last
        self.authority = directory / "certificate.pem"
        self.authority.write_bytes(CERTIFICATE_PEM)
        key = directory / "key.pem"
        key.write_bytes(KEY_PEM)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.authority, key)

    def dies(self, client: socket.socket) -> None:
        """Answer, and end without a close_notify, as a process that is killed."""
        with self._context.wrap_socket(client, server_side=True) as secured:
            self._open_it(secured)
            secured.sendall(self._data)
            # Python shuts the socket beneath down, and says no goodbye.
            secured.shutdown(socket.SHUT_WR)
            read_all(secured)

    def ends(self, client: socket.socket) -> None:
        """Answer, and end as TLS ends."""
        secured = self._context.wrap_socket(client, server_side=True)
        self._open_it(secured)
        secured.sendall(self._data + self._last)
        if self._last:
            # The other end's answer to it: TLS is not closed in the face of it.
            secured.recv(65536)
        secured.unwrap().close()
