"""What MLflow is told, and when it could not be reached, told later."""
