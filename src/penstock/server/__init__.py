"""The OpenAI surface over one engine."""
