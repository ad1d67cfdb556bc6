"""Every endpoint, imported: for the OpenAPI document, and for the tests.

Those of the KServe protocol stand apart: what they read and give are tensors, whose names are no fields of a type.
"""

from __future__ import annotations

from penstock.server.kserve.routes import ENDPOINTS as KSERVE_ENDPOINTS
from penstock.server.routes import GROUPS, READY_ENDPOINTS

ENDPOINTS = (*READY_ENDPOINTS, *(endpoint for group in GROUPS for endpoint in group.endpoints()))
DOCUMENTED = (*ENDPOINTS, *KSERVE_ENDPOINTS)
