"""`python -m mlflow_fargate.cli`, if the console script is not on PATH."""

from mlflow_fargate.cli import main

main()
