"""Shared by several test modules: fixtures (loaded by conftest.py), fakes, models, and programs that tests run."""
