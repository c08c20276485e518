"""Reads what users see: deployments, their history, tasks, traffic, what a deletion left behind. Only retention.py
writes: it marks what a deletion retains.
"""
