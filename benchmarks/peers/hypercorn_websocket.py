"""hypercorn: an ASGI application."""

import asyncio
import socket
import sys

from asgi_echo import app
from hypercorn.asyncio import serve
from hypercorn.config import Config

listening = socket.create_server(("127.0.0.1", int(sys.argv[1])))
config = Config()
config.bind = [f"fd://{listening.detach()}"]
config.errorlog = None
print("ready", flush=True)
asyncio.run(serve(app, config))
