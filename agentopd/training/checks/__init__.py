"""Before anything is fitted: who takes part in a run, what is given to it, and what can be found wrong with it."""
