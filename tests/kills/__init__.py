"""Kills at every commit: the journal as each would leave it, and a next life that has to bring it to the same end."""
