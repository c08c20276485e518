"""CloudWatch: the alarms of a deployment, the dashboard of an endpoint."""
