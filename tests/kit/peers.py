"""
WebSockets that others have written: ``websockets``, ``websocket-client``, ``aiohttp``, and ``ws`` of
Node. Their clients have one face here, which blocks: tests use it in a thread.

All servers, ours too, choose the subprotocol ``b`` where it is offered, refuse ``/refused`` with 403,
say ``welcome`` at once at ``/welcome``, and echo, but for two messages: to ``please ping`` they send a
ping, and ``pong there?`` when it has come back; at ``please close`` they close with 4002, ``done``.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import websocket
import websockets.exceptions
import websockets.sync.client
import websockets.sync.server

from tests.kit.commands import PATIENCE
from tests.kit.foreign import NODE_MODULES, needs

REFUSED = "/refused"
WELCOME = "/welcome"

PLEASE_PING = "please ping"
PLEASE_CLOSE = "please close"

_NODE = (needs("node"), needs("ws (of Node)"))

Message = str | bytes


class RefusedError(Exception):
    """A server has answered with something else than a 101; ``args`` are its status code."""


class WebsocketsClient:
    """``websockets``."""

    def __init__(self, url: str, protocols: list[str], compress: bool) -> None:
        try:
            connecting = websockets.sync.client.connect(
                url,
                subprotocols=protocols or None,  # type: ignore[arg-type]
                compression="deflate" if compress else None,
                max_size=None,
                proxy=None,
                open_timeout=PATIENCE,
                close_timeout=PATIENCE,
            )
            self._socket = connecting.__enter__()
        except websockets.exceptions.InvalidStatus as error:
            raise RefusedError(error.response.status_code) from error
        self.subprotocol = self._socket.subprotocol
        self.compresses = bool(self._socket.protocol.extensions)

    def send(self, message: Message) -> None:
        self._socket.send(message)

    def receive(self) -> Message:
        return self._socket.recv(PATIENCE)

    def ping(self, data: str) -> None:
        assert self._socket.ping(data).wait(PATIENCE)

    def close(self, code: int, reason: str) -> None:
        self._socket.close(code, reason)

    def closed(self) -> tuple[int, str]:
        with pytest.raises(websockets.exceptions.ConnectionClosed) as info:
            self._socket.recv(PATIENCE)
        assert info.value.rcvd is not None
        return info.value.rcvd.code, info.value.rcvd.reason

    def end(self) -> None:
        self._socket.close()


class WebsocketClientClient:
    """``websocket-client``, which knows no compression."""

    compresses = False

    def __init__(self, url: str, protocols: list[str], compress: bool) -> None:
        try:
            self._socket = websocket.create_connection(
                url, PATIENCE, subprotocols=protocols or None, http_no_proxy=["*"]
            )
        except websocket.WebSocketBadStatusException as error:
            raise RefusedError(error.status_code) from error
        self.subprotocol = self._socket.getsubprotocol()

    def send(self, message: Message) -> None:
        opcode = (
            websocket.ABNF.OPCODE_TEXT if isinstance(message, str) else websocket.ABNF.OPCODE_BINARY
        )
        self._socket.send(message, opcode)

    def receive(self) -> Message:
        opcode, data = self._socket.recv_data()
        return data.decode() if opcode == websocket.ABNF.OPCODE_TEXT else data

    def ping(self, data: str) -> None:
        self._socket.ping(data)
        opcode, answer = self._socket.recv_data(control_frame=True)
        assert (opcode, answer) == (websocket.ABNF.OPCODE_PONG, data.encode())

    def close(self, code: int, reason: str) -> None:
        self._socket.close(code, reason.encode(), PATIENCE)

    def closed(self) -> tuple[int, str]:
        opcode, data = self._socket.recv_data(control_frame=True)
        assert opcode == websocket.ABNF.OPCODE_CLOSE
        return struct.unpack("!H", data[:2])[0], data[2:].decode()

    def end(self) -> None:
        self._socket.shutdown()


class AiohttpClient:
    """``aiohttp``, whose loop runs while one waits for it."""

    def __init__(self, url: str, protocols: list[str], compress: bool) -> None:
        self._loop = asyncio.new_event_loop()
        self._session = self._run(self._make_session())
        # Pings are answered here: else a pong does not come here, either.
        opening = self._session.ws_connect(
            url, protocols=protocols, compress=15 if compress else 0, max_msg_size=0, autoping=False
        )
        try:
            self._socket = self._run(opening)
        except aiohttp.WSServerHandshakeError as error:
            self._end_session()
            raise RefusedError(error.status) from error
        self.subprotocol = self._socket.protocol
        self.compresses = bool(self._socket.compress)

    async def _make_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession()

    def _run(self, waiting: Any) -> Any:
        return self._loop.run_until_complete(asyncio.wait_for(waiting, PATIENCE))

    def _next(self, *kinds: aiohttp.WSMsgType) -> Any:
        message = self._run(self._socket.receive())
        while message.type is aiohttp.WSMsgType.PING:
            self._run(self._socket.pong(message.data))
            message = self._run(self._socket.receive())
        assert message.type in kinds, message
        return message

    def send(self, message: Message) -> None:
        send = self._socket.send_str if isinstance(message, str) else self._socket.send_bytes
        self._run(send(message))

    def receive(self) -> Message:
        message: Message = self._next(aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY).data
        return message

    def ping(self, data: str) -> None:
        self._run(self._socket.ping(data.encode()))
        assert self._next(aiohttp.WSMsgType.PONG).data == data.encode()

    def close(self, code: int, reason: str) -> None:
        self._run(self._socket.close(code=code, message=reason.encode()))

    def closed(self) -> tuple[int, str]:
        message = self._next(aiohttp.WSMsgType.CLOSE)
        return message.data, message.extra

    def end(self) -> None:
        self._run(self._socket.close())
        self._end_session()

    def _end_session(self) -> None:
        self._run(self._session.close())
        self._loop.close()


class Node:
    """A program of Node's that says what happens, an event a line."""

    def __init__(self, program: str, *arguments: Any) -> None:
        script = Path(__file__).with_name("node") / program
        pipe: Any = subprocess.PIPE
        self._process = subprocess.Popen(
            ["node", str(script), *map(json.dumps, arguments)],
            env={**os.environ, "NODE_PATH": str(NODE_MODULES)},
            stdin=pipe,
            stdout=pipe,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        self._alarm = threading.Timer(PATIENCE, self._process.kill)
        self._alarm.start()

    def tells(self, *kinds: str) -> list[Any]:
        """The next event, which must be of one of these kinds."""
        event: list[Any] = json.loads(self._out.readline())
        assert event[0] in kinds, event
        return event

    def do(self, *what: Any) -> None:
        self._in.write(json.dumps(what).encode() + b"\n")
        self._in.flush()

    def end(self) -> None:
        self._in.close()
        self._process.wait(PATIENCE)
        self._out.close()
        self._alarm.cancel()
        self._alarm.join()


class NodeClient:
    """``ws`` of Node."""

    def __init__(self, url: str, protocols: list[str], compress: bool) -> None:
        self._node = Node("client.cjs", url, protocols, {"perMessageDeflate": compress})
        event = self._node.tells("open", "refused")
        if event[0] == "refused":
            self._node.end()
            raise RefusedError(event[1])
        self.subprotocol = event[1] or None
        self.compresses = "permessage-deflate" in event[2]

    def send(self, message: Message) -> None:
        if isinstance(message, str):
            self._node.do("text", message)
        else:
            self._node.do("binary", base64.b64encode(message).decode())

    def receive(self) -> Message:
        kind, data = self._node.tells("text", "binary")
        return data if kind == "text" else base64.b64decode(data)

    def ping(self, data: str) -> None:
        self._node.do("ping", data)
        assert self._node.tells("pong") == ["pong", data]

    def close(self, code: int, reason: str) -> None:
        self._node.do("close", code, reason)
        self._node.tells("close")

    def closed(self) -> tuple[int, str]:
        _, code, reason = self._node.tells("close")
        return code, reason

    def end(self) -> None:
        self._node.end()


#: The clients, and those of them that can compress.
COMPRESSING_CLIENTS = [
    pytest.param(WebsocketsClient, id="websockets"),
    pytest.param(AiohttpClient, id="aiohttp"),
    pytest.param(NodeClient, id="ws", marks=_NODE),
]
CLIENTS = [*COMPRESSING_CLIENTS, pytest.param(WebsocketClientClient, id="websocket-client")]


class WebsocketsServer:
    """``websockets``, in threads."""

    def __init__(self) -> None:
        self._closed: list[tuple[int, str]] = []
        self._has_closed = threading.Semaphore(0)
        self._server = websockets.sync.server.serve(
            self._talk,
            "127.0.0.1",
            0,
            select_subprotocol=lambda _, offered: "b" if "b" in offered else None,  # type: ignore[arg-type, return-value]
            process_request=self._look,
            max_size=None,
        )
        self.port = self._server.socket.getsockname()[1]
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def _look(self, connection: Any, request: Any) -> Any:
        return connection.respond(403, "Forbidden") if request.path == REFUSED else None

    def _talk(self, connection: Any) -> None:
        if connection.request.path == WELCOME:
            connection.send("welcome")
        # Else it is logged that the code is not 1000.
        with suppress(websockets.exceptions.ConnectionClosed):
            for message in connection:
                self._answer(connection, message)
        self._closed.append((connection.close_code, connection.close_reason))
        self._has_closed.release()

    def _answer(self, connection: Any, message: Message) -> None:
        if message == PLEASE_PING:
            # Who receives gets the pong: that has to go on in the other thread.
            threading.Thread(target=self._pinged, args=(connection,)).start()
        elif message == PLEASE_CLOSE:
            connection.close(4002, "done")
        else:
            connection.send(message)

    def _pinged(self, connection: Any) -> None:
        if connection.ping("there?").wait(PATIENCE):
            connection.send("pong there?")

    def closed(self) -> tuple[int, str]:
        """What the next connection that ends has been closed with."""
        assert self._has_closed.acquire(timeout=PATIENCE)
        return self._closed.pop(0)

    def end(self) -> None:
        self._server.shutdown()
        self._thread.join(PATIENCE)


class NodeServer:
    """``ws`` of Node."""

    def __init__(self) -> None:
        self._node = Node("server.cjs")
        self.port = self._node.tells("listening")[1]

    def closed(self) -> tuple[int, str]:
        """What the next connection that ends has been closed with."""
        while (event := self._node.tells("open", "close"))[0] == "open":
            pass
        return event[1], event[2]

    def end(self) -> None:
        self._node.end()


SERVERS = [
    pytest.param(WebsocketsServer, id="websockets"),
    pytest.param(NodeServer, id="ws", marks=_NODE),
]


@contextmanager
def connected(
    kind: Any, url: str, protocols: tuple[str, ...] = (), compress: bool = False
) -> Iterator[Any]:
    """One of the clients, connected; blocks."""
    client = kind(url, list(protocols), compress)
    try:
        yield client
    finally:
        client.end()


def echoes(client: Any, *messages: Message) -> None:
    """Each message comes back, of the same type; and then all of them, sent at once."""
    for message in messages:
        client.send(message)
        assert client.receive() == message
    for message in messages:
        client.send(message)
    for message in messages:
        assert client.receive() == message
