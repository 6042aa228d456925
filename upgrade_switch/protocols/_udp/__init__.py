"""
UDP through HTTP (RFC 9298), on capsules (RFC 9297).
"""
