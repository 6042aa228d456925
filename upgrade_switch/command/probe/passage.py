"""
A proxy that has the probe on both sides: what a check asks of it, and what arrives at its far side.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from math import inf
from queue import Empty, SimpleQueue
from typing import Self

from ...fields import accept_key
from .conversation import Bytes, Conversation, Messages
from .farside import Arrival, Far, FarSide, Head
from .subject import Subject
from .wire import SWITCHING, Broken, Closed, NotHTTP, Silent, Wire

__all__ = ["CLIENT", "FAR_SIDE", "Passage"]

CLIENT, FAR_SIDE = "the client", "the far side"

# Seconds to wait for a request that the proxy has already answered: it may still be on its way.
_LATE = 0.2


@dataclass(frozen=True, kw_only=True)
class Passage(Subject):
    """
    A proxy, and what one check asks of it.
    """

    far_side: FarSide
    arrivals: SimpleQueue[Arrival] = field(default_factory=SimpleQueue)
    """The check's requests that have come to the far side."""
    number: str = ""
    """What the check's requests carry."""

    def for_a_check(self, left: float = inf) -> Self:
        return replace(super().for_a_check(left), number=f"probe-{os.urandom(6).hex()}")

    @contextmanager
    def begun(self) -> Iterator[Passage]:
        """The same proxy, with its requests expected at the far side until the end of this context."""
        with self.far_side.expecting(self.number.encode("ascii")) as arrivals:
            yield replace(self, arrivals=arrivals, fields=[*self.fields, f"Probe: {self.number}"])

    @property
    def path(self) -> str:
        """The target of its requests, with a query of their own: no cache answers them."""
        return f"{super().path}{'&' if '?' in super().path else '?'}{self.number}"

    @property
    def conversation(self) -> Conversation:
        """How the two sides talk after the 101."""
        return Messages() if self.is_websocket else Bytes()

    def up(self, data: bytes) -> bytes:
        """What the client sends to say these bytes."""
        return self.conversation.saying(data, is_client=True)

    def down(self, data: bytes) -> bytes:
        """What the far side sends to say these bytes."""
        return self.conversation.saying(data, is_client=False)

    def far_hears(self, far: Far, data: bytes) -> None:
        """
        :raises Broken: if what the client has said does not come to the far side.
        """
        self.conversation.hear(far, data, FAR_SIDE)

    def near_hears(self, near: Wire, data: bytes) -> None:
        """
        :raises Broken: if what the far side has said does not come to the client.
        """
        self.conversation.hear(near, data, CLIENT)

    def may_arrive(self, near: Wire) -> Far | None:
        """
        Wait for the next request at the far side. Like every connection, it is a context manager.

        :return: None if the proxy answers, or ends the client's connection, and nothing arrives.
        :raises Silent: if nothing happens in time.
        """
        is_answered = False
        while self.deadline.left():
            with suppress(Empty):
                arrival = self.arrivals.get(timeout=_LATE if is_answered else 0.01)
                return Far(arrival, self.deadline, self.transcript, self.far_side.serves)
            if is_answered:
                return None
            is_answered = near.has_come()
        raise Silent(f"nothing within {self.deadline.seconds:g} s", "the request at the far side")

    def arrives(self, near: Wire) -> Far:
        """
        Wait for the next request at the far side.

        :raises Broken: if the proxy answers itself.
        """
        far = self.may_arrive(near)
        if far is None:
            expected = "the request at the far side"
            raise Broken(f"{near.response(expected=expected)}, from the proxy itself", expected)
        return far

    def asks(self, head: Head) -> bool:
        """Whether a request that has arrived asks for the token (RFC 9110 §7.8)."""
        return self.token.lower() in head.elements(b"upgrade") and "upgrade" in head.elements(
            b"connection"
        )

    def upgrade_arrives(self, near: Wire) -> Far:
        """
        Wait for a request for the token at the far side.

        :raises Broken: if none comes, or one that does not ask for it.
        """
        far = self.arrives(near)
        if not self.asks(far.request):
            with far:
                far.answer("200 OK")
            expected = f"a request for {self.token} at the far side"
            raise Broken("a request without Connection: upgrade and the token", expected)
        return far

    def switching(self, head: Head, *lines: str, token: str | None = None) -> bytes:
        """
        The head of a 101.

        :param head: of the request that it answers.
        :param lines: further fields.
        :param token: what it switches to, by default the token.
        """
        key = head.all(b"sec-websocket-key")
        accepted = accept_key(key[0]).decode("ascii") if key else ""
        every = [
            "HTTP/1.1 101 Switching Protocols",
            "Connection: Upgrade",
            f"Upgrade: {self.token if token is None else token}",
            *([f"Sec-WebSocket-Accept: {accepted}"] if accepted else []),
            *lines,
        ]
        return "\r\n".join([*every, "", ""]).encode("latin-1")

    @contextmanager
    def asked(
        self, *lines: str, connection: Sequence[str] = ("Upgrade",)
    ) -> Iterator[tuple[Wire, Far]]:
        """
        A request for the token that has arrived, and is to be answered: the client's end of the
        connection and the far one.

        :param lines: these and the values of the Connection lines are as for :meth:`upgrade`.
        :raises Broken: if it does not arrive, or no longer asks for the token.
        """
        with self.open() as near:
            near.send(self.upgrade(*lines, connection=connection))
            with self.upgrade_arrives(near) as far:
                yield near, far

    @contextmanager
    def tunnel(self) -> Iterator[tuple[Wire, Far]]:
        """
        A connection that is switched already: the client's end and the far one.

        :raises Broken: if the proxy does not switch.
        """
        with self.asked() as (near, far):
            far.send(self.switching(far.request))
            self.switched(near)
            yield near, far

    def switches(
        self,
        *lines: str,
        connection: Sequence[str] = ("Upgrade",),
        offer: Sequence[str] | None = None,
        target: str | None = None,
        host: Sequence[str] | None = None,
    ) -> None:
        with self.begun() as own, own.open() as near:
            near.send(own.upgrade(*lines, connection=connection, offer=offer, target=target, host=host))
            with own.upgrade_arrives(near) as far:
                far.send(own.switching(far.request))
                own.switched(near)

    def does_not_switch(self, near: Wire) -> None:
        """
        Wait until an answer comes, the connection ends, or the time is over.

        :raises Broken: if a 101 comes.
        """
        expected = "an answer other than 101"
        with suppress(Closed, NotHTTP, Silent):
            response = near.response(expected=expected)
            if response.status == SWITCHING:
                raise Broken(f"{response} at the client", expected)

    def goes_on(self, near: Wire) -> None:
        """
        Send another request, and see that it is answered.

        :raises Broken: if it does not arrive as HTTP, or its answer does not.
        """
        sent = self.request("Connection: keep-alive, probe-hop", "Probe-Hop: 1")
        near.send(sent)
        with self.arrives(near) as far:
            far.answer("200 OK", content=b"second")
        self.was_read(far.request, sent)
        expected = "200 OK, the answer to the second request"
        response = near.response(expected=expected)
        if (response.status, response.content) != (200, b"second"):
            raise Broken(f"{response} with {response.content[:60]!r}", expected)

    def was_read(self, head: Head, sent: bytes) -> None:
        """
        Check that the proxy has parsed a request, and not tunnelled it.

        :param sent: the request, with a Connection that is for the proxy.
        :raises Broken: if it has come as it was sent.
        """
        if head.raw == sent:
            raise Broken(
                "at the far side, the second request byte for byte, as in a tunnel",
                "a request that the proxy has read, with a Connection of its own",
            )

    @contextmanager
    def sending(self, wire: Wire, data: bytes) -> Iterator[None]:
        """Send in the background: it may be more than the buffers on the way hold."""
        thread = threading.Thread(target=self._send, args=(wire, data), daemon=True)
        thread.start()
        yield
        thread.join(self.deadline.left())

    def _send(self, wire: Wire, data: bytes) -> None:
        # If it does not arrive, the reader says so.
        with suppress(Broken, ValueError):
            wire.send(data)
