"""An Application Load Balancer on this machine.

rules     chooses the target of a request; pure
server    accepts connections
proxy     forwards requests and responses
"""
