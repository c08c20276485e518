"""OCI values: manifest and configuration, references, platforms. Pure."""
