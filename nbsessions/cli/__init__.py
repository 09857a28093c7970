"""The command line ``jupyter nbsessions``: what runs, what keeps it, and how to end it."""
