"""The drawn corpus: synthetic panoramic X-rays with true answers. Nothing here knows how exports are read."""
