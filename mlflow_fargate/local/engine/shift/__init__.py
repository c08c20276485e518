"""Shifts traffic in the local ECS: state, pure decisions, transitions, and the controller that carries them out."""
