"""The subcommands of ``jupyter nbsessions database``, for operators."""
