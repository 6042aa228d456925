"""
uvicorn: an ASGI application. Behind the port stand what speaks HTTP (httptools or h11), and what speaks
WebSocket (websockets or wsproto).
"""

import socket
import sys
from typing import Any

import uvicorn


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        fields = [(b"connection", b"upgrade"), (b"upgrade", b"websocket"), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 426, "headers": fields})
        await send({"type": "http.response.body"})
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") is not None:
            await send({"type": "websocket.send", "text": message["text"]})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"]})


port, http, ws = sys.argv[1:]
config = uvicorn.Config(app, http=http, ws=ws, lifespan="off", log_level="critical", access_log=False)
with socket.create_server(("127.0.0.1", int(port)), backlog=config.backlog) as listening:
    print("ready", flush=True)
    uvicorn.Server(config).run([listening])
