"""What several test modules share: fixtures (loaded by conftest.py), fakes, models, and programs that tests run."""
