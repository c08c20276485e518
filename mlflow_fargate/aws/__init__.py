"""Every call to AWS. boto3 is not imported anywhere else; arguments and results are this package's own types."""
