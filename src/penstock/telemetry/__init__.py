"""The metric table."""
