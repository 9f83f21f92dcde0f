"""Settings that all tests share."""

from hypothesis import settings

# A busy machine makes a single example slow, which says nothing about the code.
settings.register_profile("agentopd", deadline=None)
settings.load_profile("agentopd")
