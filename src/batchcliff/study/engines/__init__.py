"""Engines place trials: on this machine's worker processes (local)."""
