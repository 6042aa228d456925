"""``message_stream`` and its client: WebSockets as messages, for coroutines."""
