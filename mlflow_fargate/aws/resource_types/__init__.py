"""One class per resource type, each with `observe`, `create`, `change` and `delete`.

catalog      every type by name, and a plan applied to them
cluster · iam · network · load_balancer · existing_load_balancer                      an endpoint
logs · secrets · routing · task_definition · service · strategy · scaling             a deployment
"""
