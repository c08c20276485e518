"""Runs one task on this machine.

image_store    layers pulled from the registry, unpacked once, joined by hard links
launch         turns a task definition into command, environment and folders
runner         starts it, forwards signals, leaves no process behind
task_init      process 1 of a task
"""
