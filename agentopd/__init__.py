"""Training of tool-using agents by on-policy distillation."""
