"""Every call to AWS. boto3 is not imported anywhere else; what comes in and goes out are our own words."""
