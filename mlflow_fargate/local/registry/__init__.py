"""An OCI registry on disk.

server · http    the distribution API over HTTP
store · upload · records   blobs and manifests as files, addressed by digest
grammar          names, tags, digests, and the specification's errors
base_image · host_python   the base image built from this machine's Python, and its files
"""
