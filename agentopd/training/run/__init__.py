"""A whole run: its stages, what they learn from, training and panels."""
