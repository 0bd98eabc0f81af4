"""The formats of the journal: numbered scripts, each in one transaction with its number."""

from __future__ import annotations

import re
import sqlite3

from pikkupy.store.queries import QUERIES, script

APPLICATION_ID = 0x70696B75  # "piku"; `PRAGMA application_id` of a file that pikkupy has made
SCRIPTS = ("schema.sql",)  # script number n, counted from 1, makes format n out of format n - 1
FORMAT = len(SCRIPTS)

_TABLE = re.compile(r"^CREATE TABLE (\w+)", re.MULTILINE)


def own_tables(number: int) -> tuple[str, ...]:
    """The tables that a journal of that format has."""
    return tuple(name for each in SCRIPTS[:number] for name in _TABLE.findall(script(each)))


def migrate(db: sqlite3.Connection, found: int, *, stamped: bool, now_us: int) -> None:
    """Bring a file of format `found` (0: no journal yet) to the newest one.

    In a file with tables of an application, `user_version` and `application_id` may be that application's: there only
    our own table tells the format. `stamped` says that they are ours.
    """
    for number in range(found + 1, FORMAT + 1):
        try:
            db.executescript(f"BEGIN IMMEDIATE;\n{script(SCRIPTS[number - 1])}")
            if number == 1:
                db.execute(QUERIES["new_journal"], (number, now_us))
            db.execute(QUERIES["set_format"], (number,))
            if stamped:
                db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                db.execute(f"PRAGMA user_version = {number}")
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
