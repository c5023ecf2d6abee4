"""Ray workers forked from one process that has imported everything already, instead of each importing it anew.

``server`` is that process, ``launcher`` stands in for Python in Ray's worker command and asks it to fork, ``session``
starts and ends it around ``ray.init``.
"""
