"""Runs what ECS describes: services are the desired state, tasks the actual state, and a thread reconciles them.

state · store            services and tasks as frozen values, and the store of the current ones
actions · rolling_decisions · transitions    what to do next, and the state after a change; pure
shift/                   the same for BLUE_GREEN, CANARY and LINEAR, and the controller that moves their traffic
traffic                  the weights of listener rules
engine                   the thread that carries it out
task_life · health · task_logs · routes    one task from start to end, its health, its output, routes to it
snapshot                 all of it as displayed
"""
