"""The project's own measurements: Penstock beside its peers, and Penstock alone. See README.md."""
