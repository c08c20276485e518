"""The templates' models: loading, warming up, predicting. Each module imports only the libraries it needs."""
