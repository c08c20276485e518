"""A service that keeps deployments at the versions the model registry names: stages and aliases move, it follows.

    http/events.py  who says so ─► control_loop/worker.py  look, decide, act ─► mlflow.deployments
                                     │    ├─ observe.py  the look        rules.py, watch.py  at what
                                     │    ├─ reconcile.py  the decision      actor.py  the deed
                                     └─ model_registry.py  what the registry says

settings.py reads the environment, http/views.py is the edge (access.py: who may see; page.py, status.py, metrics.py:
what), notify.py tells people, lease.py which of several replicas acts, serve.py runs it all. No model code runs here.
"""
