"""What can be told of web texts without a model."""
