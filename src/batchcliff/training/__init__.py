"""One trial, from its spec to its record. Importing this package imports no torch."""
