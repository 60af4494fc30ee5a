"""Content-addressed bytes on disk or S3, manifests that name them, and the memo of finished work."""
