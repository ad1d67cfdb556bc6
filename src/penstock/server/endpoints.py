"""Every endpoint, imported: for the OpenAPI document, and for the tests."""

from __future__ import annotations

from penstock.server.routes import GROUPS, READY_ENDPOINTS

ENDPOINTS = (*READY_ENDPOINTS, *(endpoint for group in GROUPS for endpoint in group.endpoints()))
