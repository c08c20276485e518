"""S3 on disk, as a WSGI application; moto's loses data on exit and reads a whole object for every range.

app                           requests → operations
buckets · objects · uploads   the operations
store · upload_store          objects as files with an index
positions                     where a listing starts
protocol                      XML, ranges, chunked bodies, checksums
"""
