"""
Servers that a proxy stands in front of, each a process with the same pages (``.pages`` has the list),
on three ports at once: TCP, TLS, and a UNIX socket.
"""
