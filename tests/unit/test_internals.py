import re

from tests.internals import ROOT, uses


def test_contributing_lists_the_internals_that_are_used():
    section = (ROOT / "CONTRIBUTING.md").read_text().partition("## Internals of other libraries\n")[2]
    entries = section[section.index("\n- ") :].partition("\n## ")[0]
    listed = set(re.findall(r"`([\w.]+)`", entries))
    used = uses()

    assert {name: sorted(places) for name, places in used.items() if name not in listed} == {}
    assert listed - set(used) == set()
