"""OCI's values: manifest and configuration, references, platforms. Pure."""
