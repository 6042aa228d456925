"""haproxy in front of a good server: it passes an upgrade on by itself."""

import sys

from fronting import Place, run

_CONFIG = """
global
  nbthread 1
  maxconn 4096
defaults
  mode http
  timeout connect 5s
  timeout client 1m
  timeout server 1m
  timeout tunnel 1h
frontend front
  bind 127.0.0.1:%(port)d
  default_backend back
backend back
  server back 127.0.0.1:%(back)d
"""


def command(place: Place) -> list[str]:
    return ["haproxy", "-q", "-db", "-f", place.write("haproxy.cfg", _CONFIG)]


run(command, *sys.argv[1:])
