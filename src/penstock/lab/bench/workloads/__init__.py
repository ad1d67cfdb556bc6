"""What is asked of an endpoint. Each workload is seeded: the same seed asks the same."""
