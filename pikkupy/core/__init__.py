"""The pure part: records, the state machine and the decisions. No clock, no I/O, no randomness in here."""
