"""The HTTP API of an engine, as an ASGI application. Needs the extra `http`.

`Guard` is around everything: it lets nobody in whom it does not know. `operations` is the table of what can be asked,
from which both the routes and the OpenAPI document are made; its handlers call the engine's methods.
"""

from pikkupy.http.application import application as application
from pikkupy.mounting import Caller as Caller
from pikkupy.mounting import HttpConfig as HttpConfig
from pikkupy.mounting import Scope as Scope
