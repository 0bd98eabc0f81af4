"""Defects made by hand, to see that the tests and the simulator find every one of them."""
