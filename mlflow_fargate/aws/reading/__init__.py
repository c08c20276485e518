"""Reads what users see: deployments, their history, tasks, traffic, what a deletion left. Nothing here writes but
retention.py, which marks what a deletion leaves on purpose.
"""
