"""A small DNS server: it knows one name."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

NAME, ADDRESS = "answer.example", "192.0.2.42"
LONG_NAME = "long.example"

_A, _TXT = 1, 16
#: Of the record that is longer than a packet of most networks.
TEXT_PARTS = 100


def reply_to(query: bytes) -> bytes:
    """The answer to a query with one question: an address, a long text, or no such name."""
    end = 12
    labels = []
    while size := query[end]:
        labels.append(query[end + 1 : end + 1 + size].decode())
        end += size + 1
    question = query[12 : end + 5]
    name, kind = ".".join(labels).lower(), int.from_bytes(query[end + 1 : end + 3], "big")
    records: list[bytes] = []
    if (name, kind) == (NAME, _A):
        records = [socket.inet_aton(ADDRESS)]
    elif (name, kind) == (LONG_NAME, _TXT):
        records = [(b"\x28" + b"%03d" % part + b"." * 37) for part in range(TEXT_PARTS)]
    code = b"\x85\x80" if records else b"\x85\x83"
    head = query[:2] + code + b"\0\1" + len(records).to_bytes(2, "big") + b"\0\0\0\0"
    answers = [
        b"\xc0\x0c" + kind.to_bytes(2, "big") + b"\0\1\0\0\0\x3c" + len(data).to_bytes(2, "big") + data
        for data in records
    ]
    return head + question + b"".join(answers)


@contextmanager
def dns_server() -> Iterator[int]:
    """
    A running server.

    :return: its port, on 127.0.0.1.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        here = server.getsockname()

        def serve() -> None:
            while True:
                query, client = server.recvfrom(65536)
                if not query:
                    return
                server.sendto(reply_to(query), client)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield here[1]
        finally:
            server.sendto(b"", here)
            thread.join()
