"""What a person types: one module for each group of commands. What they do belongs to the rooms below."""
