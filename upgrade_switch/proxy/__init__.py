"""
A reverse proxy: a resource behind which other HTTP/1.1 servers answer, upgrades included.
"""
