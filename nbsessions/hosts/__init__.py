"""The servers that load us: one module per kind."""
