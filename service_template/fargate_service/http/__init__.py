"""Requests and responses: the middleware, the routes, and their OpenAPI document."""
