"""Environments side by side: each in a thread or a process of its own, with a time limit for each call.

One as an episode sees it:  ``session.Session`` and what it ``Observed``; as a vector environment does: ``bare.Bare``.
Where it lives:             ``hosts.host`` gives a ``lane.Host``, of ``threads`` or of ``processes``.
Many as one:                ``vector.make_vec``.

Nothing here imports torch: worker processes are made of it.
"""
