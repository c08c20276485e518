"""The base image: read by reference, its files, and whether it has the shared libraries that wheels need."""
