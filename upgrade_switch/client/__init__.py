"""
The client: a connection pool that can switch, for agents and treq, and an endpoint over it.
"""
