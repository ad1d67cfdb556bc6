"""Executes one step on a device."""
