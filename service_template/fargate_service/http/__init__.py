"""Requests and answers: the middleware, the routes, and what they say of themselves."""
