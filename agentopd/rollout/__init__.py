"""Rollout: policies act in environments; out come trajectories, token-exact."""
