"""
What all back ends answer, and what their programs have in common.

============================  ==========================================================================
``GET /page``                 ``page``, with the ETag ``"1"``; 304 if the client has that
``GET /asked``                JSON: the method, the target, the fields, the client's port
``GET /large``                a file of three megabytes; with ``?chunked`` its length is not said
``POST`` or ``PUT /digest``   how long the content was, and its SHA-256
``POST /echo``                each part of the content as it comes
``GET /events``               a line for each ``POST /next``, as it comes; ``end`` is the last
``GET /poll``                 waits for the next ``POST /next``, and answers its content
``POST /next``                204, when somebody has got its content
a WebSocket, anywhere else    what ``tests.kit.peers`` says of all servers, but for pings
============================  ==========================================================================

A program's arguments are a folder, where its certificate and its file are and the UNIX socket is to be,
It says on standard output which ports it has, and what WebSockets have been closed with, a line of JSON
each.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from pathlib import Path
from typing import Any

CERTIFICATE, KEY, LARGE, SOCKET = "certificate.pem", "key.pem", "large.bin", "socket"

ETAG = '"1"'

#: The last line of ``/events``.
END = b"end"


def folder() -> Path:
    """What the program has been started with."""
    return Path(sys.argv[1])


def tell(*event: Any) -> None:
    """Say that something has happened."""
    print(json.dumps(event), flush=True)


def tls_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder() / CERTIFICATE, folder() / KEY)
    return context


class Events:
    """What ``POST /next`` passes to those who wait at ``/events`` and ``/poll``, for asyncio."""

    def __init__(self) -> None:
        self._lines: asyncio.Queue[bytes] = asyncio.Queue(1)

    async def put(self, line: bytes) -> None:
        await self._lines.put(line)

    async def get(self) -> bytes:
        return await self._lines.get()
