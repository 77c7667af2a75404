"""The loop, of one seed and of many."""
