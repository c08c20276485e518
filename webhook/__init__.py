"""A service that keeps deployments at the versions that hold their stage or alias in the model registry.

    http/events.py  parse events ─► control_loop/worker.py  observe, decide, act ─► mlflow.deployments
                                     │    ├─ observe.py  reads both sides   rules.py, watch.py  what to watch
                                     │    ├─ reconcile.py  decides          actor.py  makes the change
                                     └─ model_registry.py  reads the model registry

settings.py reads the environment; http/views.py has the routes (access.py: authorization; page.py, status.py and
metrics.py: the contents); notify.py sends notifications; lease.py elects the active replica; serve.py runs everything.
No model code runs here.
"""
