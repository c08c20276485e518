"""An Application Load Balancer on this machine.

rules     which target a request goes to; pure
server    takes connections
proxy     moves bytes
"""
