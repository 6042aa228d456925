"""No server: the ASGI application of those that need one. Its WebSockets echo."""

from typing import Any


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        fields = [(b"connection", b"upgrade"), (b"upgrade", b"websocket"), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 426, "headers": fields})
        await send({"type": "http.response.body"})
        return
    if scope["type"] != "websocket":
        raise NotImplementedError(scope["type"])  # how an application says that it has no lifespan
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") is not None:
            await send({"type": "websocket.send", "text": message["text"]})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"]})
