"""Serves MLflow models in MLflow's protocol: tables and tensors, with MLflow's own scoring code or read directly."""
