"""The real Lua scripts, run through every interleaving in small bounds. See `world.py` for what may happen, `rules.py` and
`checks.py` for what must hold."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from simulation.mutants import MUTANTS, Mutant
from simulation.scenarios import DEEP, SMALL, Simulation
from simulation.world import Scenario, bounds

#: A mutant is noticed sooner; most of them within a few hundred, and so far and further their bounds are walked without them.
_MUTANT_LIMIT = 45_000
_CONTROL_LIMIT = 3_000
_OF_MUTANTS = tuple({str(mutant.scenario): mutant.scenario for mutant in MUTANTS if mutant.scenario not in SMALL}.values())


@pytest.mark.parametrize("scenario", SMALL, ids=str)
def test_no_interleaving_breaks_a_rule(scenario: Scenario, record_property: Callable[[str, object], None]) -> None:
    found = Simulation(scenario).explore()
    record_property("states", found.states)
    assert found.complete
    assert not found.violations, str(found)


@pytest.mark.skipif(not os.environ.get("STEPS_DEEP"), reason="takes half an hour: set STEPS_DEEP=1")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scenario", DEEP, ids=str)
def test_in_wider_bounds_no_interleaving_breaks_a_rule(
    scenario: Scenario, record_property: Callable[[str, object], None]
) -> None:
    found = Simulation(scenario).explore(limit=3_000_000)
    record_property("states", found.states)
    assert not found.violations, str(found)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.rule)
def test_a_rule_that_is_taken_out_is_missed(mutant: Mutant) -> None:
    found = Simulation(mutant.scenario, mutant.scripts()).explore(limit=_MUTANT_LIMIT, stop=True)
    assert found.violations, f"nobody notices that this is gone: {mutant.rule} ({mutant.scenario}, {found})"


@pytest.mark.parametrize("scenario", _OF_MUTANTS, ids=str)
def test_with_every_rule_in_place_nothing_is_missed(scenario: Scenario) -> None:
    found = Simulation(scenario).explore(limit=_CONTROL_LIMIT)
    assert not found.violations, str(found)


def test_a_borrower_whose_namespace_was_claimed_meanwhile_records_nothing_twice() -> None:
    simulation = Simulation(bounds("s+z+b", cancel=1, stall=1))
    before_it_borrows_again = simulation.follow(
        "takes run 1", "claim", "XRANGE", "goes to sleep", "suspend",
        "takes run 2", "borrow", "XRANGE", "runs the handler of 0:0", "takes run 0",
        "CONTROL cancel 1", "(run 2) stalls", "(run 2) giveback", "(run 2) XRANGE",
    )  # fmt: skip
    found = simulation.explore(before_it_borrows_again, limit=40_000)
    assert not found.violations, str(found)
