"""Tornado: a handler that detaches its stream, for a token that the application chooses."""

import asyncio
import sys

from tornado.iostream import StreamClosedError
from tornado.web import Application, RequestHandler


class Echo(RequestHandler):
    def lists(self, name: str, wanted: str) -> bool:
        """Whether an element of a field's lines is what is wanted."""
        elements = ",".join(self.request.headers.get_list(name)).split(",")
        return wanted in (element.strip().lower() for element in elements)

    async def get(self) -> None:
        self.set_header("Connection", "Upgrade")
        self.set_header("Upgrade", "echo")
        asked = self.lists("Connection", "upgrade") and self.lists("Upgrade", "echo")
        if self.request.version != "HTTP/1.1" or not asked:
            self.set_status(426)
            await self.finish("The token here is echo.\n")
            return
        self.set_status(101)
        await self.finish()
        stream = self.detach()
        try:
            while True:
                await stream.write(await stream.read_bytes(65536, partial=True))
        except StreamClosedError:
            pass

    post = get


async def main(port: int) -> None:
    Application([("/echo", Echo)]).listen(port, "127.0.0.1")
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(main(int(sys.argv[1])))
