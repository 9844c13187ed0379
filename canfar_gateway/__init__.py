"""The HTTP and WebSocket way in, which checks every request. Imports nothing from the other rooms."""
