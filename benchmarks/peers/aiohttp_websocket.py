"""aiohttp: a WebSocketResponse."""

import sys
from functools import partial

from aiohttp import WSMsgType, web


async def echo(request: web.Request) -> web.StreamResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    return socket


app = web.Application()
app.add_routes([web.get("/echo", echo)])
web.run_app(
    app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=partial(print, flush=True)
)
