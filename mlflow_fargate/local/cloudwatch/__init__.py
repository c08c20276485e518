"""CloudWatch of the local stack: metrics from the load balancer's counts, metric math, and alarms that are evaluated.

expression (metric math) · evaluation (an alarm's next state) → metrics → alarms
"""
