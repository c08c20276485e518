"""CloudWatch: the logs and the alarms of a deployment."""
