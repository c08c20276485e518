"""The base image: its configuration, its files, and whether it has the shared libraries that wheels need."""
