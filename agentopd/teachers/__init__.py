"""Teachers: who annotates which turns, one file a kind."""
