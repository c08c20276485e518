"""The commands for one deployment; one module per command."""
