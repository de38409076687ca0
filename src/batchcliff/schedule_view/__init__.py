"""`batchcliff schedule`: rates over updates as values, text, data and a picture.

No torch on this path: the tables are those that a run would use, made without running it.
"""
