"""Stop strings over token borders: properties, and the corners by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_vk.engine.stops import StopText
from flux_vk.errors import InputError

TEXT = st.text("ab\n", max_size=12)
PIECES = st.lists(st.text("ab\n", max_size=4), max_size=12)
STOPS = st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3)


@given(pieces=PIECES, stops=STOPS)
def test_what_is_shown_is_the_text_up_to_the_first_stop_string(pieces: list[str], stops: list[str]) -> None:
    """Whatever the cuts: nothing is lost, no stop string is shown, the end is noticed with the piece that makes it."""
    stop, shown, fed = StopText(stops), "", ""
    for piece in pieces:
        fed += piece
        shown += stop.push(piece)
        hit = [fed.find(s) for s in stops if s in fed]
        assert stop.hit == bool(hit)
        if hit:
            assert shown == fed[: min(hit)]
            assert stop.flush() == ""
            return
        assert fed.startswith(shown)
        assert any(s.startswith(fed[len(shown) :]) for s in stops) or shown == fed
    assert shown + stop.flush() == "".join(pieces)


@given(text=TEXT, stops=STOPS, cut=st.integers(0, 12))
def test_the_cut_makes_no_difference(text: str, stops: list[str], cut: int) -> None:
    def run(parts: list[str]) -> tuple[str, bool]:
        stop, out = StopText(stops), ""
        for part in parts:
            out += stop.push(part)
            if stop.hit:
                break
        return out + stop.flush(), stop.hit

    whole = run(list(text))
    assert run([text[:cut], text[cut:]])[1] == whole[1]
    hit = [text.find(s) for s in stops if s in text]
    if not hit:
        assert run([text[:cut], text[cut:]]) == whole == (text, False)


def test_overlapping_prefixes_are_held_only_as_long_as_they_may_become_one() -> None:
    stop = StopText(["aab", "ba"])
    assert stop.push("a") == ""
    assert stop.push("a") == ""
    assert stop.push("a") == "a"
    assert stop.push("c") == "aac"[:3]
    assert stop.push("xb") == "x"
    assert stop.push("b") == "b"
    assert stop.push("a") == "" and stop.hit


def test_one_text_is_one_stop_string() -> None:
    stop = StopText("ab")
    assert stop.push("xa") == "x"
    assert stop.push("b") == "" and stop.hit


@pytest.mark.parametrize("bad", [[""], ["a", ""], [3]])
def test_empty_or_other_things_are_refused(bad: list[str]) -> None:
    with pytest.raises(InputError, match="stop strings are"):
        StopText(bad)
