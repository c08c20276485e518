"""The local stack's own page: what runs, how its rollouts stand, what its tasks write. Server-rendered, reads only."""

from mlflow_fargate.local.page.app import PageApp as PageApp
