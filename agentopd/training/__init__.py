"""Training: the river, the trainer that is blind to the method, and the stages of a run."""
