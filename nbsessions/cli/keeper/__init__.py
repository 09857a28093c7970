"""What the command line knows of the keeper, and its subcommands."""
