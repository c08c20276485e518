"""Compares time and bytes: mlflow-fargate's images, BentoML's and a good Dockerfile's, on this machine.

python -m benchmarks.images --only ours,floor      some of the builders; the figures of the others stay as they were

bed        what all builders share: a registry that counts bytes, a base image, a model in three versions, one of 4 GB
builders   a class each: the command for a first image, for a new version, and for one from an empty machine
ours       our builder as a command · large: with a model of gigabytes from S3, and how much memory that takes
store      that S3, as a process of its own
measure    wall clock, CPU seconds and bytes of a command
results    the figures kept as JSON in the work folder, and the table made of them
"""
