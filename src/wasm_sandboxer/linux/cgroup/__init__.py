"""Control groups of either version behind one protocol: what the kernel bounds and counts for guests' threads.

`protocol` imports nothing, so whoever only passes groups on does not load what makes them.
"""
