"""Deployments: from a model URI to a URL that answers, and everything a user does with a deployment afterwards.

    deployer           create, update, delete, get, list, predict; endpoints
    desired            model and options → the spec of a deployment, with its image
    rules              valid names, what a deployment follows, what an update cannot change; pure
    flavors            the flavors of MLflow, and whether a model has the requested one; pure
    roll_out           spec → plan → apply → wait, for deployments and the webhook service; and their deletion
    costs              monthly cost of a plan
    version_tags       tags on the model version, so that MLflow's UI shows where it runs
    webhook_service    the webhook service on Fargate: create or update, get, delete
    operations         history, events, tasks, watch, scale, a command in a task
    logs               the output of tasks
    roll_back          return to an earlier revision
    cleanup            what killed clients left behind

No state is kept between calls: what is deployed is read from AWS.
"""
