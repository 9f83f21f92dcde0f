"""One step, again and again: the river, the learner, the trainer that is blind to the method, and what they keep."""
