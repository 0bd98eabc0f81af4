"""Who calls: bearer tokens, the file that one is in if none is given, and those who try too often."""

from __future__ import annotations

import hashlib
import hmac
import inspect
import os
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from pikkupy.clock import monotonic_s, now
from pikkupy.errors import BadValue
from pikkupy.http.problems import Refused
from pikkupy.mounting import LEAST_TOKEN, UNNAMED, Caller, Connection, HttpConfig, Scope
from pikkupy.private import read_own, write_new

FAILURES = 10  # in a window, of one address; then it has to wait
WINDOW_S = 60.0
LONGEST_WAIT_S = 3_600.0
MOST_ADDRESSES = 10_000  # that are remembered
SESSION_S = 7 * 24 * 3600
MOST_LEFT = 10_000  # sessions that were left before their end, and are remembered
MOST_WRONG = 10_000  # sessions that were none, and are remembered


def token_path(path: str) -> Path:
    """Of the file with the token for the journal at `path`."""
    return Path(f"{os.path.realpath(path)}.token")


def token_of_file(path: str) -> str:
    """The token in the file beside the journal at `path`; made now if there is none.

    Raises `OSError` if it can be neither read nor made, and for a file that others can read.
    """
    if path == ":memory:":
        raise BadValue("a journal in memory has no file beside it for a token: give asgi(token=...)")
    place = token_path(path)
    new = secrets.token_urlsafe(32)
    if not place.exists():
        # Under another name first, so that nobody ever reads half of it; of several who do so one is the first.
        draft = place.with_name(f"{place.name}.{secrets.token_hex(8)}")
        write_new(draft, f"{new}\n".encode())
        with suppress(FileExistsError):
            os.link(draft, place)
        draft.unlink()
    token = read_own(place).decode("ascii", "replace").strip()
    if len(token) < LEAST_TOKEN:
        raise BadValue(
            f"{place} holds no token of {LEAST_TOKEN} characters or more: remove it, and another one is made"
        )
    return token


class Callers:
    """Tells who calls."""

    def __init__(self, config: HttpConfig, path: str) -> None:
        self._authenticate = config.authenticate
        self._known: list[tuple[bytes, Caller]] = []
        self.sessions = Sessions()
        self._real = os.path.realpath(path)
        if self._authenticate is not None:
            return
        for token, given in config.tokens.items():
            name, scope = (given.name, given.scope) if isinstance(given, Caller) else (f"{UNNAMED}:{given}", given)
            self._know(token, Caller(name, Scope(scope)))
        if config.token is not None or not config.tokens:
            token = token_of_file(path) if config.token is None else config.token
            self._know(token, Caller(UNNAMED, Scope.ADMIN))

    async def caller_of(self, headers: Mapping[str, str], cookie: str) -> Caller | None:
        """Who has sent these headers, `cookie` being the name of a session's; `None` for nobody who is known."""
        if self._authenticate is not None:
            found = self._authenticate(headers)
            caller = await found if inspect.isawaitable(found) else found
            if not isinstance(caller, Caller | None):
                raise TypeError(f"authenticate() returned {type(caller).__name__}: a Caller or None was expected")
            return caller
        token = bearer_in(headers)
        if token is not None:
            return self.caller_with(token)
        return self.sessions.caller_of(value_in(headers, cookie))

    def session_in(self, headers: Mapping[str, str], connection: Connection) -> str:
        """The session of a browser that is let in by these headers; empty for none."""
        session = value_in(headers, self.cookie_for(connection))
        return session if self.sessions.caller_of(session) is not None else ""

    def wrong_session(self, headers: Mapping[str, str], connection: Connection) -> str:
        """What a browser has kept of a session that lets nobody in any more; empty for none."""
        if self._authenticate is not None:
            return ""
        session = value_in(headers, self.cookie_for(connection))
        return session if self.sessions.caller_of(session) is None else ""

    def has_tried(self, headers: Mapping[str, str], cookie: str) -> bool:
        """Whether they say at all who it is: who has said nothing has not guessed."""
        if self._authenticate is not None:
            return "authorization" in headers or "cookie" in headers
        return bearer_in(headers) is not None or value_in(headers, cookie) != ""

    def caller_with(self, token: str) -> Caller | None:
        """Whose token it is. It takes as long for a wrong one as for a right one."""
        given, found = _digest(token), None
        for digest, caller in self._known:
            if hmac.compare_digest(digest, given):
                found = caller
        return found

    def cookie_for(self, connection: Connection) -> str:
        """The name of a session's cookie here: browsers send the cookies of a host to all of its ports.

        Where there is TLS no other host can set one of that name.
        """
        _, port = connection.get("server") or ("", 0)
        name = f"pikku_{hashlib.sha256(f'{self._real} {port}'.encode('utf-8', 'surrogateescape')).hexdigest()[:12]}"
        return f"__Host-{name}" if connection.get("scheme") == "https" else name

    def cookie_of(self, connection: Connection, name: str = "") -> dict[str, Any]:
        """All of that cookie but its value: no script, no other site and no other server of this host can use it.

        Where there is TLS it is for this host alone, and that has to be for all paths. `name`: of another one beside.
        """
        key, secure = self.cookie_for(connection) + name, connection.get("scheme") == "https"
        path = "/" if secure else connection.get("root_path", "") or "/"
        return {"key": key, "path": path, "secure": secure, "httponly": True, "samesite": "strict"}

    def _know(self, token: str, caller: Caller) -> None:
        self._known.append((_digest(token), caller))
        self.sessions.know(token, caller)


class Sessions:
    """Browsers that were let in. What each holds in a cookie is a random id and an end, signed with a key of its token.

    So every process with that token knows it, until its end. One that is left before is remembered, in this process.
    """

    def __init__(self, now: Callable[[], datetime] = now) -> None:
        self._now = now
        self._keys: list[tuple[bytes, Caller]] = []
        self._left: OrderedDict[str, None] = OrderedDict()
        self._own = secrets.token_bytes(32)

    def know(self, token: str, caller: Caller) -> None:
        """Sessions may begin with this token."""
        self._keys.append((hmac.digest(token.encode(), b"pikkupy console", "sha256"), caller))

    def begin(self, caller: Caller) -> str:
        """A new one of somebody who is known by a token. The token cannot be made of it."""
        key = next(key for key, other in self._keys if other is caller)
        said = f"{secrets.token_urlsafe(16)}.{int(self._now().timestamp()) + SESSION_S}"
        return f"{said}.{_signed(key, said)}"

    def caller_of(self, session: str) -> Caller | None:
        """Whose it is; `None` for one that is none, has ended, or was left."""
        said, _, signature = session.rpartition(".")
        found = None
        for key, caller in self._keys:
            if hmac.compare_digest(_digest(_signed(key, said)), _digest(signature)):
                found = caller
        if found is None or said in self._left or int(said.rpartition(".")[2]) <= self._now().timestamp():
            return None
        return found

    def sealed(self, text: str) -> str:
        """A text for a browser to keep, which `unsealed` knows again. It is no session."""
        return f"{_signed(self._seal, text)}.{quote(text, safe='')}"

    def unsealed(self, kept: str) -> str:
        """The text; empty for one that nobody with our token has sealed."""
        signature, _, quoted = kept.partition(".")
        text = unquote(quoted)
        return text if hmac.compare_digest(_digest(_signed(self._seal, text)), _digest(signature)) else ""

    @property
    def _seal(self) -> bytes:
        """The key for that: made of the first token, if there is any."""
        return hmac.digest(self._keys[0][0] if self._keys else self._own, b"what it keeps", "sha256")

    def leave(self, session: str) -> None:
        """It is of no use any more."""
        if self.caller_of(session) is not None:
            self._left[session.rpartition(".")[0]] = None
            if len(self._left) > MOST_LEFT:
                self._left.popitem(last=False)


class Failures:
    """How often which address has given no valid token: ten times a minute, then it waits, each time twice as long.

    Valid ones are not counted, nor is a session that was wrong before: it is a browser that was left open. (A new one
    may be a guess, as its key is made of the token.) Whoever was let in from there before is let in all the same: many
    people may come from one address. Others wait, whatever they say, or guesses could go on. An hour after the last
    failure all is forgotten.
    """

    def __init__(self, now: Callable[[], float] = monotonic_s) -> None:
        self._now = now
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()  # address: when the window began, how many
        self._let_in: OrderedDict[tuple[str, Caller], None] = OrderedDict()
        self._wrong: OrderedDict[bytes, None] = OrderedDict()

    def wait_s(self, address: str) -> float:
        """Seconds that the address has to wait; 0 if it need not."""
        began, count = self._seen.get(address, (0.0, 0))
        if count < FAILURES:
            return 0.0
        wait_s = min(WINDOW_S * 2.0 ** min(count - FAILURES, 10), LONGEST_WAIT_S)
        return max(0.0, began + wait_s - self._now())

    def let_in(self, address: str, caller: Caller) -> None:
        """A valid token. Raises `Refused` if the address has to wait, and the caller is new there."""
        known = (address, caller)
        if known not in self._let_in:
            self._check(address)
        self._let_in[known] = None
        self._let_in.move_to_end(known)
        if len(self._let_in) > MOST_ADDRESSES:
            self._let_in.popitem(last=False)

    def _check(self, address: str) -> None:
        wait_s = self.wait_s(address)
        if wait_s > 0:
            detail = f"too many tokens from {address} were wrong; wait {wait_s:.0f} s"
            raise Refused(429, "Too many failures", detail, retry_after=str(int(wait_s) + 1))

    def add(self, address: str, session: str = "") -> None:
        """One more that is not valid, of a token or of a `session`. Raises `Refused` instead if it has to wait."""
        if session and _digest(session) in self._wrong:
            return
        self._check(address)
        if session:
            self._wrong[_digest(session)] = None
            if len(self._wrong) > MOST_WRONG:
                self._wrong.popitem(last=False)
        now = self._now()
        began, count = self._seen.pop(address, (now, 0))
        if now - began >= (WINDOW_S if count < FAILURES else LONGEST_WAIT_S):
            began, count = now, 0
        elif count >= FAILURES:
            began = now  # it has waited, and is wrong again
        self._seen[address] = (began, count + 1)
        if len(self._seen) > MOST_ADDRESSES:
            self._seen.popitem(last=False)


def bearer_in(headers: Mapping[str, str]) -> str | None:
    """The token that is sent along; `None` if there is none: what is of another kind browsers send by themselves."""
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def value_in(headers: Mapping[str, str], cookie: str) -> str:
    """The value of the cookie of that name; empty if there is none."""
    cookies = SimpleCookie()
    with suppress(CookieError):
        cookies.load(headers.get("cookie", ""))
    return cookies[cookie].value if cookie in cookies else ""


def _signed(key: bytes, said: str) -> str:
    return hmac.new(key, said.encode("utf-8", "surrogateescape"), "sha256").hexdigest()


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
