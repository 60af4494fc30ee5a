"""Walking and verifying the chain of digests behind any product."""
