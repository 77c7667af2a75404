"""The library in a few lines: train, load and use a model."""
