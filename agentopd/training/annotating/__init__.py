"""Teachers over recorded trajectories: what is asked, what was answered before, and the records that come of it."""
