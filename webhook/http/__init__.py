"""The HTTP interface: app.py, its routes in views.py, authorization, event parsing, and the page, status and metrics."""
