"""An AWS emulation on this machine, for evaluation and tests: `fargate:/local`. The requests are those sent to AWS.

stack            starts all parts in order and stops them in reverse
running          the stack as another process: starts, stops and describes it
api/             AWS as a WSGI application: a thin layer in front of an unmodified moto
engine/          runs what ECS describes: desired and running tasks, rollouts, health, routes
container/       one task: unpacks its image, starts and stops its process
registry/        an OCI registry on disk, and the base image built from this machine's Python
s3/              S3 on disk
load_balancer/   a reverse proxy that follows ELBv2's rules
tracking         MLflow's tracking server
guard            which requests the servers accept: not other host names, not foreign web pages
signature        who sent a request: AWS signatures made with the stack's keys
wsgi_server · moto_client · task_definition    shared by the above
"""
