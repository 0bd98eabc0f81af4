"""Kill tests: real processes, SIGKILL at every commit point and at random instants, a ledger outside the database."""
