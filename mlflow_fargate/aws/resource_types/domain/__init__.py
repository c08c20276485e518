"""HTTPS for a domain: its certificate, which ACM validates by a DNS record, and the records of its name.

certificate, dns_record → hosted_zone
"""
