"""What an application has declared: functions and workflows by name, with their annotations resolved."""

from __future__ import annotations

import builtins
import inspect
import sys
import typing
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import cached_property
from types import FunctionType, NoneType
from typing import Any, Generic, Literal, TypeVar, overload

from pikkupy.errors import FunctionNotFound, RegistrationError, WorkflowNotFound
from pikkupy.names import check_name

In = TypeVar("In")
Out = TypeVar("Out")
Result = TypeVar("Result")

Where = Literal["async", "thread", "process"]

_BUILTINS = vars(builtins)


class _Declared(Generic[In, Out, Result]):
    """What functions and workflows have in common: a name, the plain function, its annotations."""

    noun = "declaration"

    def __init__(self, fn: Callable[..., Result], name: str, local_names: Mapping[str, Any]) -> None:
        self.fn = fn
        self.name = name
        self.takes_data = _takes_data(self.noun, fn)
        self.default = _default(fn) if self.takes_data else None  # what stands for data that is left out
        self.__wrapped__ = fn
        self.__name__ = fn.__name__
        self.__qualname__ = fn.__qualname__
        self.__module__ = fn.__module__
        self.__doc__ = fn.__doc__
        self._types: tuple[Any, Any] | None = None  # of data and result, once the annotations are resolved
        try:
            self._types = self._look_up(dict(local_names))
        except Exception:  # noqa: BLE001 - a forward reference; `resolve` tries again when everything is defined
            self._types = None

    def __call__(self, context: Any, data: Any = None, /) -> Result:
        """Call the plain function."""
        return self.fn(context, data) if self.takes_data else self.fn(context)

    def __repr__(self) -> str:
        return f"<{self.noun} {self.name!r}>"

    def resolve(self) -> None:
        """Look up the names in the annotations. Raises `RegistrationError` if one cannot be found."""
        if self._types is None:
            try:
                self._types = self._look_up(None)
            except Exception as error:
                raise RegistrationError(
                    f"{self.noun} {self.name!r}: its annotations cannot be resolved: {error}; "
                    f"define or import the types where {self.fn.__qualname__} is defined"
                ) from error

    @cached_property
    def data_type(self) -> Any:
        """The annotation of `data`; `Any` where there is none."""
        self.resolve()
        return self._types[0] if self._types else Any

    @cached_property
    def result_type(self) -> Any:
        """The annotation of the result; `Any` where there is none."""
        self.resolve()
        return self._types[1] if self._types else Any

    def _look_up(self, local_names: dict[str, Any] | None) -> tuple[Any, Any]:
        hints = typing.get_type_hints(self.fn, localns=local_names, include_extras=True)
        data = list(inspect.signature(self.fn).parameters)[1] if self.takes_data else ""
        return hints.get(data, Any), awaited_type(hints.get("return", Any))


class Function(_Declared[In, Out, Result]):
    """An RPC function: `(services, data)` in, a result out. Still callable as the plain function."""

    noun = "function"
    __pikku_function__ = True

    def __init__(
        self, fn: Callable[..., Result], name: str, worker: Where | None, local_names: Mapping[str, Any]
    ) -> None:
        super().__init__(fn, name, local_names)
        self.worker: Where = _checked_worker(fn, name, worker)


class WorkflowFunction(_Declared[In, Out, Coroutine[Any, Any, Out]]):
    """A workflow: `(workflow, data)` in, a result out. Still callable as the plain function."""

    noun = "workflow"

    def __init__(self, fn: Callable[..., Coroutine[Any, Any, Out]], name: str, local_names: Mapping[str, Any]) -> None:
        super().__init__(fn, name, local_names)
        if not inspect.iscoroutinefunction(fn):
            raise RegistrationError(f"workflow {name!r} must be `async def`: {name}{inspect.signature(fn)}")


class Registry:
    """Functions and workflows in one namespace. A plain object: no I/O, no threads, no global state."""

    def __init__(self) -> None:
        self._declared: dict[str, Function[Any, Any, Any] | WorkflowFunction[Any, Any]] = {}

    @overload
    def function(
        self, fn: Callable[[Any, In], Coroutine[Any, Any, Out]], /
    ) -> Function[In, Out, Coroutine[Any, Any, Out]]: ...
    @overload
    def function(
        self, fn: Callable[[Any], Coroutine[Any, Any, Out]], /
    ) -> Function[None, Out, Coroutine[Any, Any, Out]]: ...
    @overload
    def function(self, fn: Callable[[Any, In], Out], /) -> Function[In, Out, Out]: ...
    @overload
    def function(self, fn: Callable[[Any], Out], /) -> Function[None, Out, Out]: ...
    @overload
    def function(self, *, name: str | None = None, worker: Where | None = None) -> _FunctionDecorator: ...
    def function(self, fn: Any = None, *, name: str | None = None, worker: Where | None = None) -> Any:
        """Register an RPC function, bare or with arguments; its name is the Python name unless `name` says otherwise.

        `worker`: "async" (the default of `async def`: on the event loop), "thread" (the default of `def`), or
        "process" (either, in a separate process; the function must be importable by name). Raises
        `RegistrationError` at once if the name is taken or the function cannot be called like that.
        """
        local_names = sys._getframe(1).f_locals

        def register(fn: Callable[..., Any]) -> Function[Any, Any, Any]:
            _check_callable("function", fn)
            declared: Function[Any, Any, Any] = Function(fn, _checked(name, fn), worker, local_names)
            self._add(declared)
            return declared

        return register if fn is None else register(fn)

    @overload
    def workflow(self, fn: Callable[[Any, In], Coroutine[Any, Any, Out]], /) -> WorkflowFunction[In, Out]: ...
    @overload
    def workflow(self, fn: Callable[[Any], Coroutine[Any, Any, Out]], /) -> WorkflowFunction[None, Out]: ...
    @overload
    def workflow(self, *, name: str | None = None) -> _WorkflowDecorator: ...
    def workflow(self, fn: Any = None, *, name: str | None = None) -> Any:
        """Register a workflow, bare or with a name. Raises `RegistrationError` at once, as `function` does."""
        local_names = sys._getframe(1).f_locals

        def register(fn: Callable[..., Any]) -> WorkflowFunction[Any, Any]:
            _check_callable("workflow", fn)
            declared: WorkflowFunction[Any, Any] = WorkflowFunction(fn, _checked(name, fn), local_names)
            self._add(declared)
            return declared

        return register if fn is None else register(fn)

    def find_function(self, target: str | Function[Any, Any, Any]) -> Function[Any, Any, Any]:
        """The function of that name, or the object itself if it is this registry's. Raises `FunctionNotFound`."""
        name = target if isinstance(target, str) else target.name
        found = self._declared.get(name)
        if isinstance(found, Function) and (isinstance(target, str) or found is target):
            return found
        raise FunctionNotFound(self.not_found("function", name, target))

    def find_workflow(self, target: str | WorkflowFunction[In, Out]) -> WorkflowFunction[In, Out]:
        """The workflow of that name, or the object itself if it is this registry's. Raises `WorkflowNotFound`."""
        if not isinstance(target, (str, _Declared)):
            raise WorkflowNotFound(f"{target!r} is no workflow: give its name, or an object made by @pikku.workflow")
        name = target if isinstance(target, str) else target.name
        found = self._declared.get(name)
        if isinstance(found, WorkflowFunction) and (isinstance(target, str) or found is target):
            return found
        raise WorkflowNotFound(self.not_found("workflow", name, target))

    def find(self, name: str) -> Function[Any, Any, Any] | WorkflowFunction[Any, Any] | None:
        """Whatever is registered under `name`."""
        return self._declared.get(name)

    def workflows(self) -> list[WorkflowFunction[Any, Any]]:
        """All workflows, by name."""
        found = [one for one in self._declared.values() if isinstance(one, WorkflowFunction)]
        return sorted(found, key=lambda one: one.name)

    def in_processes(self) -> list[Callable[..., object]]:
        """The functions that run in worker processes."""
        declared = self._declared.values()
        return [one.fn for one in declared if isinstance(one, Function) and one.worker == "process"]

    def resolve(self) -> None:
        """Resolve every annotation. Raises `RegistrationError` for the first that cannot be."""
        for declared in self._declared.values():
            declared.resolve()

    def _add(self, declared: Function[Any, Any, Any] | WorkflowFunction[Any, Any]) -> None:
        taken = self._declared.get(declared.name)
        if taken is not None:
            raise RegistrationError(
                f"{declared.noun} {declared.name!r}: the name is taken by the {taken.noun} {taken.fn.__module__}."
                f"{taken.fn.__qualname__}; functions and workflows share one namespace, give one of them name=..."
            )
        self._declared[declared.name] = declared

    def not_found(self, noun: str, name: str, target: object = "") -> str:
        """Why there is no function, or workflow, of that name; `target` is the object that was given for it."""
        if isinstance(target, _Declared) and target.noun != noun:
            return f"{name!r} is no {noun} but a {target.noun}"
        if not isinstance(target, str) and name in self._declared:
            return f"{noun} {name!r} belongs to another Pikku than the engine's, which has its own {name!r}"
        known = sorted(known for known, declared in self._declared.items() if declared.noun == noun)
        listed = ", ".join(known[:10]) + (", …" if len(known) > 10 else "")
        return f"no {noun} named {name!r} is registered; registered: {listed or 'none'}"


class _FunctionDecorator(typing.Protocol):
    """What `pikku.function(...)` with arguments returns."""

    @overload
    def __call__(
        self, fn: Callable[[Any, In], Coroutine[Any, Any, Out]], /
    ) -> Function[In, Out, Coroutine[Any, Any, Out]]: ...
    @overload
    def __call__(
        self, fn: Callable[[Any], Coroutine[Any, Any, Out]], /
    ) -> Function[None, Out, Coroutine[Any, Any, Out]]: ...
    @overload
    def __call__(self, fn: Callable[[Any, In], Out], /) -> Function[In, Out, Out]: ...
    @overload
    def __call__(self, fn: Callable[[Any], Out], /) -> Function[None, Out, Out]: ...


class _WorkflowDecorator(typing.Protocol):
    """What `pikku.workflow(...)` with arguments returns."""

    @overload
    def __call__(self, fn: Callable[[Any, In], Coroutine[Any, Any, Out]], /) -> WorkflowFunction[In, Out]: ...
    @overload
    def __call__(self, fn: Callable[[Any], Coroutine[Any, Any, Out]], /) -> WorkflowFunction[None, Out]: ...


def awaited_type(annotation: Any) -> Any:
    """`T` for `Awaitable[T]`, `Coroutine[..., T]`, `Future[T]`; other annotations as they are."""
    origin = typing.get_origin(annotation)
    if isinstance(origin, type) and issubclass(origin, Awaitable):
        return typing.get_args(annotation)[-1]
    return annotation


def inline_result_type(body: Callable[..., Any]) -> Any:
    """The return annotation of an inline callable; `Any` where there is none or it cannot be resolved."""
    try:
        if getattr(body, "__name__", "") == "<lambda>":  # most are, and have none: a dict would be made of nothing
            return Any
        annotations = getattr(body, "__annotations__", None) or {}
        if "return" not in annotations:
            return Any
    except Exception:  # noqa: BLE001 - a callable object may raise whatever it likes when it is asked
        return Any
    fn = getattr(body, "__func__", body)
    named = _class_named(fn, annotations["return"])
    return _resolved_result_type(fn) if named is None else named


def _class_named(fn: Any, hint: object) -> type | None:
    """The class that a return annotation is, or is the name of, where that needs no evaluation: some 10 µs less."""
    if type(fn) is not FunctionType or fn.__dict__ or getattr(fn, "__type_params__", None):
        return None  # wrapped, or not to be looked at, or with names of its own
    if isinstance(hint, str) and hint not in fn.__code__.co_freevars:
        hint = fn.__globals__.get(hint, _BUILTINS.get(hint, hint))
    if hint is None:
        return NoneType
    return hint if isinstance(hint, type) else None


def _resolved_result_type(fn: Any) -> Any:
    code = getattr(fn, "__code__", None)
    cells = zip(code.co_freevars, fn.__closure__ or (), strict=False) if code else ()
    try:
        local_names = {name: cell.cell_contents for name, cell in cells}
        hints = typing.get_type_hints(fn, localns=local_names, include_extras=True)
    except Exception:  # noqa: BLE001 - without it the value's own types are kept, which loses nothing
        return Any
    return awaited_type(hints.get("return", Any))


def _checked(name: str | None, fn: Callable[..., Any]) -> str:
    try:
        return check_name(fn.__name__ if name is None else name, "name")
    except (TypeError, ValueError) as error:
        raise RegistrationError(f"{fn.__qualname__}: {error}") from None


def _check_callable(noun: str, fn: object) -> None:
    if not inspect.isroutine(fn):
        raise RegistrationError(f"{noun}: {fn!r} is no function; decorate a `def` or an `async def`")


def _takes_data(noun: str, fn: Callable[..., Any]) -> bool:
    try:
        signature = inspect.signature(fn)
    except ValueError as error:  # a built-in that does not tell
        raise RegistrationError(f"{noun}: {error}; wrap it in a `def`") from None
    first = "services" if noun == "function" else "workflow"
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    positional = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    if len(kinds) not in (1, 2) or not positional.issuperset(kinds):
        raise RegistrationError(
            f"{noun} {fn.__qualname__}{signature}: the parameters must be ({first}, data), or ({first}) alone"
        )
    return len(kinds) == 2


def _default(fn: Callable[..., Any]) -> Any:
    *_, data = inspect.signature(fn).parameters.values()
    return None if data.default is inspect.Parameter.empty else data.default


def _checked_worker(fn: Callable[..., Any], name: str, worker: Where | None) -> Where:
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise RegistrationError(f"function {name!r} is a generator, whose result cannot be kept; return a list")
    is_async = inspect.iscoroutinefunction(fn)
    if worker is None:
        return "async" if is_async else "thread"
    if worker not in ("async", "thread", "process"):
        raise RegistrationError(f"function {name!r}: worker={worker!r}; use 'async', 'thread' or 'process'")
    if worker == "async" and not is_async:
        raise RegistrationError(f"function {name!r}: worker='async' needs `async def`; a `def` runs on a 'thread'")
    if worker == "thread" and is_async:
        raise RegistrationError(f"function {name!r}: worker='thread' needs `def`; an `async def` runs as 'async'")
    if worker == "process":
        _check_importable(fn, name)
    return worker


def _check_importable(fn: Callable[..., Any], name: str) -> None:
    if "<" in fn.__qualname__:  # <locals> or <lambda>
        raise RegistrationError(
            f"function {name!r}: worker='process' needs a function at the top of a module, which a worker process "
            f"can import; {fn.__qualname__} is not"
        )
    if fn.__module__ == "__main__" and not hasattr(sys.modules["__main__"], "__file__"):
        raise RegistrationError(
            f"function {name!r}: worker='process' cannot import a function typed at a prompt; put it into a module"
        )
