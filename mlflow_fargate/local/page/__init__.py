"""The local stack's status page: services, rollouts and task logs. Server-rendered and read-only."""

from mlflow_fargate.local.page.app import PageApp as PageApp
