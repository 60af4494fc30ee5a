"""Pure torch and transformers: recipes, letterbox, dataset, model, training loop, head health. Runs as its own process."""
