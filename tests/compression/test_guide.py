"""How often guide samples are drawn."""

from __future__ import annotations

from sgsc_edge.compression.guide import MOST_OFTEN, GuideSamples


def test_a_rare_class_is_drawn_half_as_often_as_if_all_had_as_many_samples() -> None:
    part, classes = tuple(range(100)), (0,) * 56 + (1,) * 40 + (2,) * 4
    fourfold = (index for index in range(96, 100) for _ in range(4))
    assert GuideSamples(part, classes).drawn == (*range(96), *fourfold)
    one = GuideSamples(part, (0,) * 99 + (1,)).drawn
    assert one.count(99) == MOST_OFTEN
    assert one.count(98) == 1
    kept = GuideSamples(part, classes, must_keep=(99,)).drawn
    assert kept.count(99) == 7  # a sixteenth of the draws, though its class would give it a quarter of that


def test_must_keep_samples_are_drawn_more_often() -> None:
    part = tuple(range(3, 120))
    assert GuideSamples(part).drawn == part
    kept = (part[3], 1)  # one of the guide part, one beside it
    drawn = GuideSamples(part, must_keep=kept).drawn
    assert set(drawn) == {*part, 1}
    assert drawn.count(kept[0]) == drawn.count(1) == 4  # 8 of 125, about a sixteenth
    few = tuple(range(0, 120, 4))
    many = GuideSamples(few, must_keep=tuple(range(100))).drawn
    assert sorted(many) == sorted({*few, *range(100)})


def test_without_a_guide_part_nothing_but_must_keep_is_drawn() -> None:
    assert GuideSamples().drawn == ()
    assert GuideSamples(must_keep=(5, 7)).drawn == (5, 7)
