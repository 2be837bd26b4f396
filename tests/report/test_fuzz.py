# SPDX-License-Identifier: Apache-2.0
"""Whatever a results.json holds, a report comes out: it may have been merged, cut or edited."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints
from xml.etree import ElementTree as Xml

import xmlschema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import reporting, results
from harness.results import Run

_TEXT = st.one_of(
    st.sampled_from(["", "load", "verifier", "rate-limit", "memory", "boot", "5.10", "6.1-oldest"]),
    st.text(max_size=12),
)
_NUMBERS = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 1e-300, 1e300, 20_000.0]),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
)


def _of(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type, the structs with every field filled."""
    if hint is str:
        return _TEXT
    if hint is float:
        return _NUMBERS
    if hint is int:
        return st.integers(-1, 1 << 40)
    if get_origin(hint) is tuple:
        return st.lists(_of(get_args(hint)[0]), max_size=3).map(tuple)
    if get_origin(hint) is dict:
        key, value = get_args(hint)
        return st.dictionaries(_of(key), _of(value), max_size=2)
    if get_args(hint):  # X | None
        return st.one_of(*(_of(one) for one in get_args(hint)))
    if is_dataclass(hint) and isinstance(hint, type):
        hints = get_type_hints(hint)
        return st.builds(hint, **{field.name: _of(hints[field.name]) for field in fields(hint)})
    return st.from_type(hint)


@settings(
    max_examples=60, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(made=_of(Run))
def test_every_form_of_any_result_is_well_formed(made: Run) -> None:
    """No traceback, XML that parses and keeps to the schema, JSON, a page without a stray script."""
    drawn = reporting.draw(made, None)

    Xml.fromstring(drawn["badge.svg"])
    xmlschema.XMLSchema(Path(__file__).parent / "junit.xsd").validate(drawn["junit.xml"].decode())
    json.loads(drawn["results.sarif"])
    HTMLParser().feed(drawn["report.html"].decode())
    assert drawn["report.html"].count(b"<script>") == 1
    assert reporting.table(made)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(made=_of(Run))
def test_any_result_comes_back_from_json_as_it_was(made: Run, tmp_path_factory: Any) -> None:
    """A redrawn report is the same report."""
    path = tmp_path_factory.mktemp("fuzz") / "results.json"
    made = replace(made, schema=results.SCHEMA)
    results.write(made, path)

    assert results.read(path) == made
