"""A server of aiohttp's; ``pages`` says what it answers."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

from aiohttp import WSMsgType, web

from tests.kit.back_ends.pages import END, ETAG, LARGE, SOCKET, Events, folder, tell, tls_context

routes = web.RouteTableDef()
events = web.AppKey("events", Events)


@routes.get("/page")
async def page(request: web.Request) -> web.Response:
    if request.headers.get("If-None-Match") == ETAG:
        return web.Response(status=304, headers={"ETag": ETAG})
    return web.Response(text="page", headers={"ETag": ETAG})


@routes.get("/asked")
async def asked(request: web.Request) -> web.Response:
    peer: Any = request.transport and request.transport.get_extra_info("peername")
    fields = [[name.decode(), value.decode("latin-1")] for name, value in request.raw_headers]
    return web.json_response(
        {
            "method": request.method,
            "target": request.raw_path,
            "fields": fields,
            "port": peer and peer[1],
        }
    )


@routes.get("/large")
async def large(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    body = (folder() / LARGE).read_bytes()
    if not request.query_string:
        response.content_length = len(body)
    await response.prepare(request)
    await response.write(body)
    return response


@routes.post("/digest")
@routes.put("/digest")
async def digest(request: web.Request) -> web.Response:
    sha256, size = hashlib.sha256(), 0
    async for chunk in request.content.iter_any():
        sha256.update(chunk)
        size += len(chunk)
    return web.Response(text=f"{size} {sha256.hexdigest()}")


@routes.post("/echo")
async def echo(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    async for chunk in request.content.iter_any():
        await response.write(chunk)
    return response


@routes.get("/events")
async def listen(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    line = b""
    while line != END:
        line = await request.app[events].get()
        await response.write(b"data: " + line + b"\n\n")
    return response


@routes.get("/poll")
async def poll(request: web.Request) -> web.Response:
    return web.Response(body=await request.app[events].get())


@routes.post("/next")
async def post_next(request: web.Request) -> web.Response:
    await request.app[events].put(await request.read())
    return web.Response(status=204)


@routes.get("/{path:.*}")
async def talk(request: web.Request) -> web.StreamResponse:
    if request.path == "/refused":
        return web.Response(status=403, text="Forbidden")
    socket = web.WebSocketResponse(protocols=["b"], max_msg_size=0, compress=True)
    await socket.prepare(request)
    if request.path == "/welcome":
        await socket.send_str("welcome")
    reason = ""
    async for message in socket:
        if message.data == "please close":
            await socket.close(code=4002, message=b"done")
        elif message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
        else:
            await socket.send_bytes(message.data)
    tell("close", socket.close_code, reason)
    return socket


async def main() -> None:
    app = web.Application(client_max_size=0)
    app[events] = Events()
    app.add_routes(routes)
    runner = web.AppRunner(app)
    await runner.setup()
    tcp = web.TCPSite(runner, "127.0.0.1", 0)
    tls = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls_context())
    for site in (tcp, tls, web.UnixSite(runner, str(folder() / SOCKET))):
        await site.start()
    tell("listening", *(address[1] for address in runner.addresses[:2]))
    await asyncio.Event().wait()


asyncio.run(main())
