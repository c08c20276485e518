"""An OCI registry on disk.

server · http    the distribution API over HTTP
store · upload · records   blobs and manifests as files, addressed by digest
grammar          names, tags, digests, and errors as the specification words them
base_image       the base image that stands for this machine's Python
"""
