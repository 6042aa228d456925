"""
``upgrade-switch probe``: what a server switches to, and whether it does it right.

It speaks over plain sockets, and reads responses with h11: a fault of this package's own client would
otherwise hide the same fault of a server. A check is a function of :mod:`.checks`.
"""
