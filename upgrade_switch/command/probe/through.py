"""
``upgrade-switch probe --through``: whether a proxy can be reached, and reaches the probe's far side.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from math import inf

from .discovery import NotReached, what_is_there
from .farside import FarSide
from .passage import Passage
from .subject import Subject
from .wire import Broken, Closed, Deadline, NotHTTP

__all__ = ["reached"]

# A proxy with health checks may have to notice first that there is a server now: how many time-outs it
# has for that, and the seconds between two requests.
_TIMEOUTS_UNTIL_UP = 2
_PAUSE = 0.1


@contextmanager
def reached(proxy: Subject, host: str, port: int, left: float = inf) -> Iterator[Passage]:
    """
    Serve a proxy's far side, and check that its requests arrive there.

    :param host: where to listen; the proxy has to be told to forward to it.
    :param left: the seconds that there are for it.
    :raises NotReached: if nothing can listen there, if the proxy cannot be reached, or if its requests
        do not arrive.
    """
    try:
        far_side = FarSide(host, port)
    except OSError as error:
        # socket.create_server has put more into strerror.
        code = error.errno or 0
        why = os.strerror(code) if code > 0 else error.strerror
        raise NotReached(f"cannot listen on {host}:{port}: {why}") from None
    with far_side:
        known = {field.name: getattr(proxy, field.name) for field in fields(proxy)}
        passage = Passage(**known, far_side=far_side)
        _see_that_requests_arrive(passage, Deadline(left))
        yield passage


def _see_that_requests_arrive(passage: Passage, bound: Deadline) -> None:
    deadline = bound.shorter(_TIMEOUTS_UNTIL_UP * passage.timeout)
    while (answer := _answer(passage, bound)) is not None:
        if not deadline.left():
            address = passage.far_side.address
            raise NotReached(
                f"no request to {passage.url} has arrived at {address} ({answer}): configure the proxy "
                f"to forward to http://{address}"
            )
        time.sleep(_PAUSE)


def _answer(passage: Passage, bound: Deadline) -> str | None:
    """What the proxy answers to a request that it does not forward; None if it forwards it."""
    with passage.for_a_check(bound.left()).begun() as own:
        try:
            near = own.open()
        except Closed as fault:
            raise NotReached(what_is_there(fault, own, "proxy")) from None
        with near:
            try:
                near.send(own.request())
                far = own.may_arrive(near)
                if far is None:
                    return f"the proxy answers {near.head()}"
                with far:
                    far.answer("200 OK")
                    near.response()
            except NotHTTP as fault:
                raise NotReached(what_is_there(fault, own, "proxy")) from None
            except Broken as fault:
                return fault.came
    return None
