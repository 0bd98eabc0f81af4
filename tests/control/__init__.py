"""The control socket: clients in other processes, and those who are not let in."""
