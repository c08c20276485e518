"""Makes ECS true: services hold what is desired, tasks what runs, and a thread takes away the difference.

state · store            services and tasks as frozen values; where the current ones are
actions · rolling_decisions · transitions    what to do next, and what a change leads to; pure
shift/                   the same for BLUE_GREEN, CANARY and LINEAR, and the controller that moves their traffic
traffic                  the weights of listener rules
engine                   the thread that does it
task_life · health · task_logs · routes    one task from start to end, its health, its output, the way to it
snapshot                 a picture of it all
"""
