"""A small AWS on this machine, to try and to test: `fargate:/local`. It changes what AWS answers, never what we ask.

stack            the whole: starts the parts in order, stops them in reverse
api/             AWS as a WSGI application: a thin layer before an unmodified moto
engine/          makes ECS true: desired tasks ↔ running ones, rollouts, health, routes
container/       one task: its image unpacked, its process started and ended
registry/        an OCI registry on disk, and the base image that stands for this machine's Python
s3/              S3 on disk
load_balancer/   a reverse proxy that follows ELBv2's rules
tracking         MLflow's tracking server
guard            which requests they take: no other host names, no web pages of strangers
signature        whose: AWS signatures with the keys of this stack
wsgi_server · moto_client · task_definition    what these share
"""
