"""The server side: uploads come in over HTTP and become objects in the bucket, durable before the 201."""
