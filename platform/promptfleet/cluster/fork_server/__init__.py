"""Fork server: Ray workers are forked from one process with all imports, instead of each importing them again.

``server`` is that process, ``launcher`` replaces Python in Ray's worker command and asks it to fork, ``session`` starts
and ends it around ``ray.init``.
"""
