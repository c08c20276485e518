"""Makes ECS true: services hold what is desired, tasks what runs, and a thread takes away the difference.

state · store            services and tasks as frozen values; where the current ones are
acts · rollout · transitions    what to do next, and what a change leads to; pure
shift · shift_state · shift_transitions    the same for BLUE_GREEN, CANARY and LINEAR
traffic · shifting       the weights of listener rules, and who moves them
engine                   the thread that does it
task_life · health · task_logs · routes    one task from start to end, its health, its output, the way to it
status                   a picture of it all
"""
