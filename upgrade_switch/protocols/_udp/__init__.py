"""
UDP through HTTP (RFC 9298), in capsules (RFC 9297): ``server`` has ``connect_udp``, ``client`` has
``open_udp``. Neither is imported here: a program that has one of them needs nothing of the other.
"""
