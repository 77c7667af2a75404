"""A run on disk: its folder, its log, its checkpoints, and how it is read back."""
