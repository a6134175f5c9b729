"""Object stores (s3://, gs://): the requests to one, and the working copy that what is written goes through."""
