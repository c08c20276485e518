"""Keeps deployments at the versions that the model registry names: observe, decide, act, and again. No Flask here."""
