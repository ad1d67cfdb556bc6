"""Requests in, tokens out: scheduler, KV blocks, prefix cache, sampling."""
