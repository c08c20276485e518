"""Registries: the HTTP client and its transport, logins, pushing; an OCI layout on disk; blobs kept on this machine."""
