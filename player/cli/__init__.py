"""The command line of the player."""
