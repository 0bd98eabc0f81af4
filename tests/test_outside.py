"""What comes from outside and has keys that its type has no place for is refused; what is recorded is read as ever."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, NewType, TypedDict

import msgspec
import pytest

from pikkupy import PayloadError, Pikku, Workflow
from pikkupy.codec.outside import Outside, check_keys
from pikkupy.codec.refusal import Refused


@dataclasses.dataclass
class Address:
    """Where somebody lives."""

    city: str
    code: str = ""


class User(msgspec.Struct, rename="camel"):
    """Somebody."""

    full_name: str
    home: Address | None = None


class Cat(msgspec.Struct, tag=True):
    """An animal."""

    lives: int = 9


class Dog(msgspec.Struct, tag=True):
    """Another one."""

    bones: int = 0
    friend: Cat | None = None


class Told(TypedDict):
    """With keys that are known, and perhaps others."""

    user: User


Named = NewType("Named", User)


@pytest.mark.parametrize(
    ("annotation", "value", "place", "said"),
    [
        (User, {"fullName": "a", "home": None}, None, ""),
        (User, {"fullName": "a", "full_name": "b"}, "$", "has no field 'full_name'; it has: 'fullName', 'home'"),
        (User, {"fullName": "a", "home": {"city": "x", "zip": 1}}, "$.home", "Address has no field 'zip'"),
        (Address, {"city": "x", "town": "y"}, "$", "'town'"), (Named, {"fullName": "a", "x": 1}, "$", "'x'"),
        (Annotated[User, 1], {"fullName": "a", "x": 1}, "$", "'x'"),
        (list[Address], [{"city": "x"}, {"city": "x", "no": 1}], "$[1]", "'no'"),
        (dict[str, Address], {"a": {"city": "x", "no": 1}}, "$.a", "'no'"),
        (tuple[int, Address], [1, {"city": "x", "no": 1}], "$[1]", "'no'"),
        (tuple[Address, ...], [{"city": "x", "no": 1}], "$[0]", "'no'"),
        (Cat | Dog, {"type": "Dog", "bones": 1}, None, ""), (Cat | Dog, {"type": "Cat", "bones": 1}, "$", "'bones'"),
        (Cat | Dog | None, {"type": "Dog", "friend": {"type": "Cat", "x": 1}}, "$.friend", "'x'"),
        (Address | dict[str, int], {"a": 1}, None, ""), (Told, {"user": {"fullName": "a"}, "more": 1}, None, ""),
        (Told, {"user": {"fullName": "a", "x": 1}}, "$.user", "'x'"),
        (Any, {"a": {"b": 1}}, None, ""), (dict, {"a": 1}, None, ""), (User, 1, None, ""), (User, User("a"), None, ""),
    ],
)  # fmt: skip
def test_a_key_that_a_class_has_no_place_for_is_found(
    annotation: Any, value: Any, place: str | None, said: str
) -> None:
    """With its place. What does not fit at all is a matter of fitting."""
    if place is None:
        check_keys(annotation, value)
    else:
        with pytest.raises(Refused) as found:
            check_keys(annotation, value)
        assert said in found.value.reason and found.value.path == place


pikku = Pikku()


@pikku.workflow
async def greeting(workflow: Workflow, data: User) -> str:
    """Greet somebody."""
    await workflow.do("look", lambda: None)
    return data.full_name


@pytest.mark.parametrize("way", ["engine", "client"])
async def test_only_what_is_said_to_come_from_outside_is_looked_at_so(tmp_path: Path, way: str) -> None:
    """Before there is a run, or a fork; what the application itself hands over is converted as ever."""
    given = {"fullName": "ada", "fulName": "x"}
    async with pikku.open(tmp_path / "app.db") as engine, pikku.connect(tmp_path / "app.db") as client:
        asked: Any = engine if way == "engine" else client
        with pytest.raises(PayloadError, match=r"input of workflow 'greeting': \$: .*no field 'fulName'"):
            await asked.start("greeting", Outside(given), run_id="r")
        assert (await engine.list_runs()).runs == ()
        assert await (await asked.start("greeting", given, run_id="r")).result("30s") == "ada"
        again = await asked.start("greeting", Outside({"fullName": "ada"}), run_id="r")
        assert await again.result("30s") == "ada"
        with pytest.raises(PayloadError, match="no field 'fulName'"):
            await asked.fork("r", at="look", input=Outside(given))
        fork = await asked.fork("r", at="look", input=Outside({"fullName": "bob"}))
        assert await fork.result("30s") == "bob"
        assert len((await engine.list_runs()).runs) == 2
