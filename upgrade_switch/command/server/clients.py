"""
``serve --client-ca``: clients show a certificate, or are not let in.
"""

from __future__ import annotations

from collections.abc import Iterable

from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.python.usage import UsageError

from ... import _twisted
from ..certificates import authorities_in

__all__ = ["demand_certificates"]


def demand_certificates(endpoints: Iterable[tuple[str, IStreamServerEndpoint]], file: str) -> None:
    """
    Have clients show a certificate, on every port.

    :param endpoints: where to listen: endpoint strings, and the endpoints that they describe.
    :param file: the path of a PEM file, with the certificates of those who may vouch for them.
    :raises UsageError: if it has none, or if one of the endpoints cannot ask for certificates: clients
        would come in there without.
    """
    authorities = authorities_in(file, "--client-ca")
    for description, endpoint in endpoints:
        if not _twisted.demand_certificates(endpoint, authorities):
            raise UsageError(f"--client-ca is for ssl: endpoints only, not for {description!r}")
