"""The console: runs for people, in a browser. Server-rendered pages that work without JavaScript, and live with it.

Needs the extra `console`. It is a part of the HTTP API's application, behind the same guard.
"""

from pikkupy.console.door import PersonsDoor, lost
from pikkupy.console.pages import PAGES
from pikkupy.http.application import Pages

CONSOLE = Pages(PAGES, PersonsDoor(), lost)
