"""Runs one task on this machine.

image_store       layers pulled from the registry, unpacked once, joined by hard links
launch            turns a task definition into command, environment and folders
runner            starts it as a process, forwards signals, leaves no process behind
task_init         process 1 of a task
container_engine  is there a podman or a docker that works?
run_arguments     turns a task definition into its arguments
engine_runner     pulls images and starts tasks as containers, leaves no container behind
engine_task       one container, until its end
engine_leftovers  what a stack leaves in an engine, and its removal
"""
