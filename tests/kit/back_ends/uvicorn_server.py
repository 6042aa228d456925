"""An ASGI application on uvicorn; ``pages`` says what it answers."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
from typing import Any

import uvicorn

from tests.kit.back_ends.pages import CERTIFICATE, END, ETAG, KEY, LARGE, SOCKET, Events, folder, tell


class Answer:
    """One answer of HTTP's."""

    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope, self._receive, self._send = scope, receive, send
        self.headers = dict(scope["headers"])

    async def chunks(self) -> Any:
        more = True
        while more:
            message = await self._receive()
            assert message["type"] == "http.request", message
            more = message.get("more_body", False)
            yield message.get("body", b"")

    async def begins(self, code: int = 200, **fields: str) -> None:
        headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
        await self._send({"type": "http.response.start", "status": code, "headers": headers})

    async def goes_on(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def ends(self, body: bytes = b"") -> None:
        await self._send({"type": "http.response.body", "body": body})

    async def is_all(self, body: bytes, **fields: str) -> None:
        await self.begins(content_length=str(len(body)), **fields)
        await self.ends(body)


async def page(answer: Answer) -> None:
    if answer.headers.get(b"if-none-match") == ETAG.encode():
        await answer.begins(304, etag=ETAG)
        await answer.ends()
    else:
        await answer.is_all(b"page", etag=ETAG)


async def asked(answer: Answer) -> None:
    scope = answer.scope
    query = b"?" + scope["query_string"] if scope["query_string"] else b""
    said = {
        "method": scope["method"],
        "target": (scope["raw_path"] + query).decode(),
        "fields": [[name.decode(), value.decode("latin-1")] for name, value in scope["headers"]],
        "port": scope["client"] and scope["client"][1],
    }
    await answer.is_all(json.dumps(said).encode())


async def large(answer: Answer) -> None:
    body = (folder() / LARGE).read_bytes()
    if answer.scope["query_string"]:
        await answer.begins()
        await answer.ends(body)
    else:
        await answer.is_all(body)


async def digest(answer: Answer) -> None:
    sha256, size = hashlib.sha256(), 0
    async for chunk in answer.chunks():
        sha256.update(chunk)
        size += len(chunk)
    await answer.is_all(f"{size} {sha256.hexdigest()}".encode())


async def echo(answer: Answer) -> None:
    await answer.begins()
    async for chunk in answer.chunks():
        await answer.goes_on(chunk)
    await answer.ends()


async def listen(answer: Answer) -> None:
    await answer.begins(content_type="text/event-stream")
    line = b""
    while line != END:
        line = await events.get()
        await answer.goes_on(b"data: " + line + b"\n\n")
    await answer.ends()


async def poll(answer: Answer) -> None:
    await answer.is_all(await events.get())


async def post_next(answer: Answer) -> None:
    await events.put(b"".join([chunk async for chunk in answer.chunks()]))
    await answer.begins(204)
    await answer.ends()


async def nothing(answer: Answer) -> None:
    await answer.begins(404)
    await answer.ends()


async def talk(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    if scope["path"] == "/refused":
        await send({"type": "websocket.http.response.start", "status": 403, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"Forbidden"})
        return
    chosen = "b" if "b" in scope["subprotocols"] else None
    await send({"type": "websocket.accept", "subprotocol": chosen})
    if scope["path"] == "/welcome":
        await send({"type": "websocket.send", "text": "welcome"})
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") == "please close":
            await send({"type": "websocket.close", "code": 4002, "reason": "done"})
        elif message.get("text") is not None:
            await send({"type": "websocket.send", "text": message["text"]})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"]})
    tell("close", message["code"], message.get("reason") or "")


PAGES = {
    "/page": page,
    "/asked": asked,
    "/large": large,
    "/digest": digest,
    "/echo": echo,
    "/events": listen,
    "/poll": poll,
    "/next": post_next,
}


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await talk(scope, receive, send)
    else:
        await PAGES.get(scope["path"], nothing)(Answer(scope, receive, send))


class Server(uvicorn.Server):
    """Leaves signals alone: there are two of these."""

    def capture_signals(self) -> Any:
        from contextlib import nullcontext

        return nullcontext()


async def main() -> None:
    global events
    events = Events()
    common: dict[str, Any] = {
        "lifespan": "off",
        "log_level": "critical",
        "timeout_keep_alive": 60,
        "ws_max_size": 2**30,
    }
    tls = {"ssl_certfile": folder() / CERTIFICATE, "ssl_keyfile": folder() / KEY}
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(folder() / SOCKET))
    unix.listen()
    servers = [
        Server(uvicorn.Config(app, **common)).serve([sockets[0], unix]),
        Server(uvicorn.Config(app, **common, **tls)).serve([sockets[1]]),
    ]
    tell("listening", *(each.getsockname()[1] for each in sockets))
    await asyncio.gather(*servers)


asyncio.run(main())
