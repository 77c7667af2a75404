"""The face of the library: train, load and use a model in a few lines."""
