"""Waiting for ECS: rolling updates, traffic shifts, and why tasks stopped."""
