"""Requests that share a prediction, and which models allow that."""
