"""Training: what is checked, a step and what it keeps, a whole run, and what a person sees of it."""
