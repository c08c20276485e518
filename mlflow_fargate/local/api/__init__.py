"""AWS as far as mlflow-fargate uses it, as a WSGI application.

gateway     which handler responds; the only home of moto
ecs         ECS: services and tasks from the engine, the rest from moto (with ecs_services, ecs_tasks, …)
ecr · elb   what moto says of images and load balancers, put right
protocol    requests and responses of AWS's protocols
"""
