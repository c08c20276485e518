"""`python -m mlflow_fargate.cli`, for where the console script is not on PATH."""

from mlflow_fargate.cli import main

main()
