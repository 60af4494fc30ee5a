"""Content-addressed bytes on disk or S3, and the manifests, memo and records that name them.

What belongs here: how bytes are kept, verified and collected. What does not: what the bytes mean.
"""
