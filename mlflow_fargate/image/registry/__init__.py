"""Registries: the HTTP client and its transport, logins, pushing; an OCI layout on disk; cached blobs."""
