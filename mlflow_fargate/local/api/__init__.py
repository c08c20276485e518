"""AWS as far as mlflow-fargate uses it, as a WSGI application.

gateway     picks the handler that responds; the only module that imports moto
ecs         ECS: services and tasks from the engine, the rest from moto (with ecs_services, ecs_tasks, …)
ecr · elb   moto's responses about images and load balancers, corrected
protocol    requests and responses of AWS's protocols
"""
