"""The doctor: finds what would prevent a deployment, and says how to fix it.

checks        pure functions from facts (doctor_facts.py) to a Finding
examination   reads the facts of an account and a tracking server, and runs the checks
"""
