"""Tests of the room that calls the code of steps."""
