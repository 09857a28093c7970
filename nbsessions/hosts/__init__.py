"""Integration with the servers that load the extension, one module per kind of server."""
