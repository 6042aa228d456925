"""
uvicorn: an ASGI application. Behind the port stand what speaks HTTP (httptools or h11), and what speaks
WebSocket (websockets or wsproto).
"""

import socket
import sys

import uvicorn
from asgi_echo import app

port, http, ws = sys.argv[1:]
config = uvicorn.Config(app, http=http, ws=ws, lifespan="off", log_level="critical", access_log=False)
with socket.create_server(("127.0.0.1", int(port)), backlog=config.backlog) as listening:
    print("ready", flush=True)
    uvicorn.Server(config).run([listening])
