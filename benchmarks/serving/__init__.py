"""Serving: the service next to other servers of the same models."""
