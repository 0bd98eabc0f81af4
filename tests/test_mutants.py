"""What finds defects is not believed to: ten that were made by hand are found in each run of the tests."""

from __future__ import annotations

import pytest

from tests.mutants.__main__ import PROJECT, look
from tests.mutants.defects import DEFECTS, QUICK, Defect

quick = [defect for defect in DEFECTS if defect.name in QUICK]


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_each_defect_still_has_its_place(defect: Defect) -> None:
    """Code that was changed takes the defect with it, or it would not be made any more."""
    text = (PROJECT / "pikkupy" / defect.file).read_text()

    assert text.count(defect.before) == 1
    assert defect.before != defect.after
    if defect.file.endswith(".py"):
        compile(text.replace(defect.before, defect.after), defect.file, "exec")


def test_there_are_enough_of_them() -> None:
    assert len({defect.name for defect in DEFECTS}) == len(DEFECTS) >= 40
    assert f" makes {len(DEFECTS)} defects " in (PROJECT / "README.md").read_text()
    assert len(quick) == len(QUICK) == 10


@pytest.mark.parametrize("defect", quick, ids=lambda defect: defect.name)
def test_a_defect_is_found(defect: Defect) -> None:
    """By a test that objects to it, and not to a copy of the project without it."""
    assert look(defect).found_by is not None
