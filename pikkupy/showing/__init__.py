"""Runs, steps and values as people are shown them, in a terminal or in a browser."""
