"""A study on disk and in motion: plan, store, supervision. Imports no torch."""
