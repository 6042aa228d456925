"""A server of HTTP/3: aioquic's, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aioquic.asyncio import QuicConnectionProtocol, serve
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ProtocolNegotiated
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tests.kit.certificate import CERTIFICATE_PEM, KEY_PEM


class Serving(QuicConnectionProtocol):
    """Answers each request with 300 kB, behind what it was sent."""

    PAGE = b"three hundred thousand bytes ..." * 9375

    _http: H3Connection | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._bodies: dict[int, bytes] = {}

    def quic_event_received(self, event: Any) -> None:
        if isinstance(event, ProtocolNegotiated):
            self._http = H3Connection(self._quic)
        for found in self._http.handle_event(event) if self._http else ():
            if isinstance(found, HeadersReceived):
                self._bodies[found.stream_id] = b""
            elif isinstance(found, DataReceived):
                self._bodies[found.stream_id] += found.data
            if getattr(found, "stream_ended", False):
                self._answer(found.stream_id)

    def _answer(self, stream: int) -> None:
        assert self._http is not None
        self._http.send_headers(stream, [(b":status", b"200")])
        self._http.send_data(stream, self._bodies.pop(stream) + self.PAGE, end_stream=True)
        self.transmit()


@contextmanager
def http3_server() -> Iterator[int]:
    """
    A running server.

    :return: its port, on 127.0.0.1.
    """
    configuration = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN)
    configuration.certificate = x509.load_pem_x509_certificate(CERTIFICATE_PEM)
    configuration.private_key = serialization.load_pem_private_key(KEY_PEM, None)
    loop = asyncio.new_event_loop()
    running = loop.run_until_complete(
        serve("127.0.0.1", 0, configuration=configuration, create_protocol=Serving)
    )
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield running._transport.get_extra_info("sockname")[1]
    finally:
        loop.call_soon_threadsafe(running.close)
        # The transport is closed in the turn behind that.
        loop.call_soon_threadsafe(loop.call_soon, loop.stop)
        thread.join()
        loop.close()
