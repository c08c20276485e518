"""The story: from a model URI to a URL that answers, and everything a user does to a deployment after that.

    deployer           create, update, delete, get, list, predict; endpoints
    desired            model and options → the spec of a deployment, with its image
    rules              what a deployment follows, what an update cannot change; pure
    roll_out           spec → plan → apply → watch → answer, for a deployment and for the webhook service; and their end
    costs              monthly cost of a plan
    version_tags       tags on the model version, so that MLflow's UI shows where it runs
    webhook_service    the webhook service on Fargate: create or update, get, delete
    operations         history, events, tasks, watch, scale, a command in a task
    logs               what tasks wrote, and write
    roll_back          an earlier revision serves again
    cleanup            what killed clients left

Nothing is kept here between calls: what is deployed is read from AWS.
"""
