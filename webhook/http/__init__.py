"""The HTTP interface: routes, authorization, event parsing, and the page, status and metrics."""
