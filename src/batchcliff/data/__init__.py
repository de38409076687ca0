"""Data: where it comes from, that it is what it says, and how it reaches the device.

`sources` and `verify` need no torch; `augment` and `resident` do.
"""
