"""One task on this machine.

image_store    layers pulled from the registry, unpacked once, put together by hard links
launch         from a task definition to what is started: command, environment, folders
runner         starts it, hands on signals, leaves nobody behind
task_init      process 1 of a task
"""
