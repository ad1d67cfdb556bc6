"""How model families write tool calls: a file a family, and what they share."""
