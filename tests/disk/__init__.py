"""Power loss, errors of the disk, kills and rot: what SQLite does to its files is watched, changed and rebuilt.

`python -m tests.disk` is the long form; the tests of this folder are small parts of it.
"""
