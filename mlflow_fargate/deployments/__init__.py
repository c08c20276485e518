"""The story: from a model URI to a URL that answers, and everything a user does to a deployment after that.

    deployer           create, update, delete, get, list, predict; endpoints
    webhook_service    the same for the webhook service, on Fargate
    operations         look at a deployment, roll back, scale, clean up
    desired            model and options → the spec of a deployment, with its image
    rules              names, what a deployment follows, what an update cannot change; pure
    costs              monthly cost of a plan
    version_tags       tags on the model version, so that MLflow's UI shows where it runs

Nothing is kept here between calls: what is deployed is read from AWS.
"""
