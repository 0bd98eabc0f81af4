"""Kill tests: real processes, killed at named places and at random instants, and a ledger outside the database."""
