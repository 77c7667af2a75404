"""Scores of samples against real data, with everything that a number depends on."""
