"""What an inline step is annotated to return, which is read at every step."""

from __future__ import annotations

import functools
import typing
from collections.abc import Awaitable, Callable, Coroutine
from types import NoneType
from typing import Annotated, Any, Generic, TypeVar

import pytest

from pikkupy import registry
from pikkupy.registry import awaited_type, inline_result_type

T = TypeVar("T")


class Box(Generic[T]):
    """A class that can be subscripted."""

    async def text(self) -> str:
        return ""


class Answer(Awaitable[int]):
    """A class whose objects can be awaited: it is no result of one."""


Named = str
Optional = int | None


async def of_text() -> str:
    return ""


async def of_none() -> None: ...


async def of_box() -> Box[int]:
    return Box()


async def of_plain_box() -> Box:  # type: ignore[type-arg]
    return Box()


def of_answer() -> Answer: ...  # type: ignore[empty-body]


def of_coroutine() -> Coroutine[Any, Any, str]: ...  # type: ignore[empty-body]


async def of_alias() -> Named:
    return ""


async def of_optional() -> Optional:
    return None


async def of_annotated() -> Annotated[int, "positive"]:
    return 1


async def of_generic() -> T:  # type: ignore[type-var]
    raise NotImplementedError


async def of_anything() -> Any: ...


@functools.wraps(of_text)
async def wrapped() -> Any: ...


@typing.no_type_check
async def unchecked() -> str:
    return ""


def by_classes() -> list[Callable[..., Any]]:
    """Some whose annotations are no texts."""
    namespace: dict[str, Any] = {"Box": Box}
    text = "async def a() -> str: ...\nasync def b() -> None: ...\nasync def c() -> list[Box]: ..."
    exec(compile(text, "<test>", "exec", dont_inherit=True), namespace)
    return [namespace[name] for name in "abc"]


def of_a_closure() -> list[Callable[..., Any]]:
    """Annotated with what only their closure knows, and with a name that it hides."""

    class Inner:
        """Known here alone."""

    str = Box

    async def inner() -> Inner:
        return Inner()

    async def hidden() -> str:  # type: ignore[valid-type]
        return str()

    return [inner, hidden]


BODIES = [
    of_text, of_none, of_box, of_plain_box, of_answer, of_coroutine, of_alias, of_optional, of_annotated, of_generic,
    of_anything, wrapped, unchecked, Box[int]().text, *by_classes(), *of_a_closure(),
]  # fmt: skip


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_it_is_what_typing_makes_of_it(body: Callable[..., Any]) -> None:
    """Also where it is not asked."""
    fn = getattr(body, "__func__", body)
    cells = dict(zip(fn.__code__.co_freevars, [cell.cell_contents for cell in fn.__closure__ or ()], strict=True))
    hints = typing.get_type_hints(fn, localns=cells, include_extras=True)

    assert inline_result_type(body) == awaited_type(hints.get("return", Any))


def test_a_name_that_is_not_there_says_nothing() -> None:
    """The value keeps its own type."""

    async def body() -> Nowhere:  # type: ignore[name-defined]  # noqa: F821
        raise NotImplementedError

    assert inline_result_type(body) is Any


def test_a_class_needs_no_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """That took longer than all else of a step that computes nothing."""
    monkeypatch.setattr(registry.typing, "get_type_hints", None)  # whoever calls it is told `Any`

    classes = [inline_result_type(body) for body in (of_text, of_none, of_plain_box, of_alias, Box[int]().text)]
    assert classes == [str, NoneType, Box, str, str]
    assert inline_result_type(of_box) is Any
