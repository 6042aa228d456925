"""
The server: a ``twisted.web`` site whose connections can switch.
"""
