"""What a user may start, and how it starts."""
