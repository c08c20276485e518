"""What stands in the way of deploying: facts are read, judged one by one, and told with what to do.

checks        each a pure decision from facts (survey.py) to a Finding
examination   reads the facts of an account and a tracking server, and orders the findings
"""
