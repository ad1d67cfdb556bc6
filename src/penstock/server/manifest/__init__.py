"""The state of every field of every public API: one file an API, `table` for all of them, `events` for streams.

A request's fields are read while serving (`field.without_effect`); the rest is for `docs/openai.md`, which `page`
makes, and for the tests, which hold it against the types, the references and each other.
"""
