"""Measured comparisons, each with its raw results."""
