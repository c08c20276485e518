"""The templates' models: loaded, warmed up, and asked. Each module imports only the libraries of its kind."""
