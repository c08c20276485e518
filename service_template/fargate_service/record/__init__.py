"""A record of requests and answers in S3: recorder (which), body (what of them), writer (when), s3 (how)."""
