"""The journal on disk. The only SQL of the project is in this room.

`Journal` is its face. Behind it, from the file upwards: `files` looks before anything is opened, `owner` holds the lock
and the epoch, `connection` opens what `threaded` uses on a thread of its own, with one function per hop, or `on_loop`
on the loop itself, `migrations` and `schema.sql` make the tables, `rows` turns records into columns and back, `plan`
groups changes into few statements, `writer` runs a transaction, `committer` decides when, `reader` answers questions,
`reading` is how they are asked. `viewing` lets a file answer that somebody else owns, or nobody; `facts` is what is
said of such a file as a whole, `records` compares its rows with their checksums, `backup` copies it, `restore` puts a
copy in its place.
"""

from __future__ import annotations

from pikkupy.store.backup import Backup as Backup
from pikkupy.store.backup import back_up as back_up
from pikkupy.store.committer import Done as Done
from pikkupy.store.connection import is_damage as is_damage
from pikkupy.store.connection import resolve as resolve
from pikkupy.store.facts import Facts as Facts
from pikkupy.store.facts import facts_of as facts_of
from pikkupy.store.files import RESTORE as RESTORE
from pikkupy.store.journal import Journal as Journal
from pikkupy.store.owner import OTHERS as OTHERS
from pikkupy.store.owner import holder_of as holder_of
from pikkupy.store.owner import is_locked as is_locked
from pikkupy.store.reading import Reading as Reading
from pikkupy.store.restore import put_back as put_back
from pikkupy.store.rows import damage as damage
from pikkupy.store.viewing import Viewing as Viewing
