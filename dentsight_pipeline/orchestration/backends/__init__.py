"""Where a training job runs. What is trained belongs to `training/`."""
