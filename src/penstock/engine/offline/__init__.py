"""Offline generation: a file of prompts in, a JSONL file of answers out, and no work lost in between."""

from __future__ import annotations

from penstock.engine.offline.run import Job, Summary, generate_file

__all__ = ["Job", "Summary", "generate_file"]
