"""Bugs that other engines had: a test for each, that would see it here. Their numbers are those in `test_all.py`."""
