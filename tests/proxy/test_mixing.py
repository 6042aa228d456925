"""
Many clients at once, whose requests share kept-alive connections to back ends, while any of them goes
wrong at any time: each client gets its own answers, in order, and nothing of anybody else's.
"""

from __future__ import annotations

from random import Random

import h11
import pytest

from tests.kit.backed import HOST, SWITCH, Accepted, Place, Proxied


def read_answers(data: bytes) -> tuple[list[tuple[int, bytes, bool]], bytes]:
    """The final answers in what a client has got: code, body, whether it is whole; and what is left."""
    found: list[tuple[int, bytes, bool]] = []
    while b"\r\n\r\n" in data:
        head, _, data = data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 "), head
        code = int(head[9:12])
        fields = head.lower()
        if code == 101:
            return [*found, (code, b"", True)], data
        if code < 200:
            continue
        body, is_complete = b"", False
        if b"\r\ntransfer-encoding: chunked" in fields:
            while b"\r\n" in data:
                size = int(data.partition(b"\r\n")[0], 16)
                rest = data.partition(b"\r\n")[2]
                if len(rest) < size + 2:
                    body, data = body + rest[:size], b""
                    break
                body, data = body + rest[:size], rest[size + 2 :]
                if not size:
                    is_complete = True
                    break
        else:
            length = int(fields.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0])
            body, data = data[:length], data[length:]
            is_complete = len(body) == length
        found.append((code, body, is_complete))
        if not is_complete:
            break
    return found, data


class Asking:
    """A client: what it has asked for, in its order."""

    def __init__(self, proxied: Proxied, name: int) -> None:
        self.joined = proxied.client()
        self.name = name
        self.asked: list[bytes] = []
        self.has_left = self.is_last = False

    def ask(self, random: Random) -> None:
        mark = b"<%d.%d>" % (self.name, len(self.asked))
        self.asked.append(mark)
        target = b"/u/" + mark[1:-1]
        kind = random.choice(("get", "get", "put", "post", "chunks", "upgrade", "upgrade with content"))
        fields = HOST
        if kind.startswith("upgrade"):
            self.is_last = True
            fields += b"Connection: Upgrade\r\nUpgrade: echo\r\n"
        if kind in ("get", "upgrade"):
            data = b"GET " + target + b" HTTP/1.1\r\n" + fields + b"\r\n"
        elif kind == "chunks":
            chunks = b"".join(b"%x\r\n%b\r\n" % (len(mark), mark) for _ in range(3))
            data = b"POST " + target + b" HTTP/1.1\r\n" + fields + b"Transfer-Encoding: chunked\r\n\r\n"
            data += chunks + b"0\r\n\r\n"
        else:
            method = b"PUT" if kind == "put" else b"POST"
            fields += b"Content-Length: %d\r\n" % (3 * len(mark))
            data = method + b" " + target + b" HTTP/1.1\r\n" + fields + b"\r\n" + mark * 3
        if self.is_last:
            data += mark + b"tunnelled"
        split = random.randrange(len(data) + 1)
        self.joined.send(data[:split])
        self.joined.send(data[split:])

    def check(self) -> None:
        answers, rest = read_answers(self.joined.received)
        assert len(answers) <= len(self.asked)
        for mark, (code, body, is_complete) in zip(self.asked, answers, strict=False):
            if code == 200:
                assert body == (mark * 50)[: len(body)], (self.name, mark, body)
                assert is_complete is (len(body) == 50 * len(mark))
            elif code == 101:
                assert rest == (mark * 50)[: len(rest)], (self.name, mark, rest)
            else:
                assert code in (403, 502, 503, 504), code


class Serving:
    """A back end's side of a connection: reads strictly, and answers as chance has it."""

    def __init__(self, back: Accepted, random: Random) -> None:
        self.back = back
        self.random = random
        self.parser = h11.Connection(h11.SERVER)
        self.mark: bytes | None = None
        self.body = b""
        self.is_complete = self.has_upgrade = False
        self.pending = b""
        self.ends = False

    @property
    def is_switched(self) -> bool:
        return self.parser.our_state is h11.SWITCHED_PROTOCOL

    def read(self) -> None:
        if self.is_switched:
            early = self.parser.trailing_data[0] + self.back.received
            assert self.mark is not None
            assert (self.mark + b"tunnelled").startswith(early)
            return
        if data := self.back.take():
            self.parser.receive_data(data)
        while (event := self.parser.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            if isinstance(event, h11.Request):
                assert self.mark is None, "a second request before the answer"
                self.mark = b"<" + event.target[1:] + b">"
                self.body, self.is_complete = b"", False
                self.has_upgrade = any(name == b"upgrade" for name, _ in event.headers)
            elif isinstance(event, h11.Data):
                self.body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert self.mark is not None
                assert self.body in (b"", 3 * self.mark)
                self.is_complete = True
            else:
                return

    def act(self) -> None:
        self.read()
        if self.back.is_over or self.back.lost:
            return
        what = self.random.random()
        if what < 0.04:
            self.back.reset()
        elif what < 0.07 and not (self.pending and self.ends):
            # The end of an answer whose length nobody has said would look like the whole.
            self.back.close()
        elif what < 0.09 and self.mark is None:
            self.back.answer(b"HTTP/1.1 408 Late\r\nContent-Length: 0\r\n\r\n")
        elif self.pending:
            size = self.random.choice((1, 30, 10_000))
            data, self.pending = self.pending[:size], self.pending[size:]
            self.back.answer(data)
            if not self.pending:
                self.after()
        elif self.mark is not None and not self.is_switched and (self.is_complete or what > 0.95):
            self.begin()

    def begin(self) -> None:
        """Answer, perhaps before the content's end."""
        assert self.mark is not None
        body = self.mark * 50
        kind = self.random.choice(("length", "chunks", "close", "bad", "hint"))
        self.ends = not self.is_complete
        if self.has_upgrade and self.is_complete and kind != "bad":
            if self.random.random() < 0.5:
                self.parser.send(
                    h11.InformationalResponse(status_code=101, headers=[("Upgrade", "echo")])
                )
                self.pending = SWITCH + body
            else:
                self.pending = b"HTTP/1.1 403 No\r\nContent-Length: 3\r\n\r\nno."
                self.ends = True
            return
        if kind == "bad":
            self.pending, self.ends = b"HTTP/1.1 200 OK\r\nBad field: x\r\n\r\n" + body, True
        elif kind == "close":
            self.pending, self.ends = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body, True
        elif kind == "chunks":
            chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            self.pending = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk
        else:
            hint = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" if kind == "hint" else b""
            self.pending = hint + b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    def after(self) -> None:
        if self.is_switched:
            return
        if self.ends:
            self.back.close()
            return
        self.parser.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
        self.parser.send(h11.EndOfMessage())
        self.parser.start_next_cycle()
        self.mark = None


def serve_all(places: list[Place], serving: dict[Accepted, Serving], random: Random) -> None:
    for place in places:
        for back in list(place.accepted):
            if back not in serving:
                serving[back] = Serving(back, random)
            serving[back].act()


@pytest.mark.parametrize("seed", range(60))
def test_never_mixed(seed: int) -> None:
    """Whatever happens, each gets its own; and at the end nothing is at work."""
    random = Random(seed)
    proxied = Proxied(2, response_timeout=40, idle_timeout=40)
    serving: dict[Accepted, Serving] = {}
    clients = [Asking(proxied, number) for number in range(4)]
    for step in range(400):
        client = random.choice(clients)
        what = random.random()
        if client.has_left or client.joined.is_over or client.joined.half_closed:
            client.joined.wire.client.abortConnection()
            clients[clients.index(client)] = Asking(proxied, step + 10)
        elif what < 0.15 and not client.is_last:
            client.ask(random)
        elif what < 0.17:
            client.has_left = True
            if random.random() < 0.5:
                client.joined.wire.client.abortConnection()
            else:
                client.joined.wire.client.loseConnection()
        elif what < 0.18:
            place = random.choice(proxied.places)
            place.is_there = not place.is_there
        elif what < 0.2:
            proxied.net.advance(random.choice((0.1, 1, 5)))
        else:
            serve_all(proxied.places, serving, random)
        proxied.net.pump()
        client.check()
    for client in clients:
        client.check()
        client.joined.wire.client.abortConnection()
    proxied.net.pump()
    for _ in range(4):
        proxied.net.advance(45)
        proxied.net.pump()
    for back in serving:
        # What has switched has its client's end told.
        assert back.is_over or back.half_closed
        back.reset()
    proxied.net.pump()
    assert proxied.is_idle()
