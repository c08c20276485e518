"""One class per resource type, each with `observe`, `create`, `change` and `delete`.

resource_type    what each class does
catalog          every type by name, and a plan applied to them
cluster · iam · network · load_balancer · existing_load_balancer                                     an endpoint
logs · secrets · target_group · listener_rules · task_definition · service · strategy · scaling      a deployment
"""
