"""Records: trajectories and annotations, kept and read back equal."""
