"""The command line ``jupyter nbsessions``: list, show, stop and diagnose sessions."""
