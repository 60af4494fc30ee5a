"""Where exports come from and how they are read, down to a stored raw export; what labels mean belongs to `data/`."""
