"""Every endpoint, imported: for the OpenAPI document, and for the tests."""

from __future__ import annotations

from penstock.server.kserve.routes import ENDPOINTS as KSERVE_ENDPOINTS
from penstock.server.routes import GROUPS, READY_ENDPOINTS

ENDPOINTS = (*READY_ENDPOINTS, *(endpoint for group in GROUPS for endpoint in group.endpoints()))
DOCUMENTED = (*ENDPOINTS, *KSERVE_ENDPOINTS)  # KServe's fields are tensors, which have a page of their own
