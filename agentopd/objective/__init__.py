"""The objective: the parts of a method as pure functions, and prepare."""
