"""The contract, decision by decision: one short test for each, by section."""
