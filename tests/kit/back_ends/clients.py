"""What clients ask others' servers through a proxy, and what they look for."""

from __future__ import annotations

import hashlib
import http.client
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from tests.kit.commands import PATIENCE


def port_of(proxy: Any) -> int:
    port: int = proxy.port.getHost().port
    return port


def connect(port: int) -> Any:
    return closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE))


def ask(client: Any, method: str, path: str, *arguments: Any, **kwargs: Any) -> tuple[Any, bytes]:
    """An answer and its body."""
    client.request(method, path, *arguments, **kwargs)
    response = client.getresponse()
    return response, response.read()


def digest_of(content: bytes) -> bytes:
    return f"{len(content)} {hashlib.sha256(content).hexdigest()}".encode()


def pieces(content: bytes) -> Iterator[bytes]:
    """A content in parts, whose length is not known before."""
    for begin in range(0, len(content), 50_000):
        yield content[begin : begin + 50_000]
