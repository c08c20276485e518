"""The commands on one deployment: one module a command."""
