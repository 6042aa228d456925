"""
What the two sides of an HTTP/2 connection share, free of server and client: the rules of its fields
(RFC 9113 §8.2, §8.3).
"""
