"""Pure torch and transformers: recipes, letterbox, data, model, training loop, head health; runs as its own process."""
