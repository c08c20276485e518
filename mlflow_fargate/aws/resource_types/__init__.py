"""One class per resource type, each with `observe`, `create`, `change` and `delete`.

resource_type    the interface of the classes
catalog          every type by name, and applying a plan
cluster · iam · network · load_balancer                                                              an endpoint
logs · secrets · target_group · listener_rules · task_definition · service · strategy · scaling      a deployment
"""
