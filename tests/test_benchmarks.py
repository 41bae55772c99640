"""What the benchmarks write; measuring is not tested here."""

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("resource")  # they need Linux

from benchmarks.peers import ARCHIVES, DCMTK, RECEIVERS, SENDERS, STORESCU, UVLOOP, C
from benchmarks.report import BEGIN, END, Results, load, markdown, readme_section, save, write_readme
from benchmarks.scenarios import SCENARIOS, Sample
from benchmarks.targets import TARGETS, ratio

NAMES = {scenario.name: scenario for scenario in SCENARIOS}
FACTS = {"date": "2026-01-01", "machine": "2 cores", "rounds": "3", "seconds": "1", "Python": "3.11"}


def some_results():
    scenario = NAMES["512 KB CT, 1 association"]
    samples = {UVLOOP: [Sample(900.0, 0.2, {}), Sample(1000.0, 0.4, {})], DCMTK: [Sample(450.0, 0.5, {})] * 2}
    return Results(FACTS, [(replace(scenario, note="a note"), samples, {C: "no compiler"})])


def test_every_target_is_about_a_scenario_and_its_peers():
    for target in TARGETS:
        assert {target.mine, target.other} - {""} <= {*NAMES[target.scenario].peers}, target


def test_every_peer_of_a_scenario_is_known():
    for scenario in SCENARIOS:
        if scenario.kind != "import":
            known = {"send": SENDERS, "retrieve": {*ARCHIVES, STORESCU}}.get(scenario.kind, RECEIVERS)
            assert {*scenario.peers} <= {*known}, scenario.name


def test_a_ratio_is_the_median_of_the_rounds():
    assert ratio(some_results().samples("512 KB CT, 1 association"), UVLOOP, DCMTK) == pytest.approx(
        (2 + 1000 / 450) / 2
    )


def test_results_come_back_from_their_file(tmp_path):
    save(some_results(), tmp_path / "results.json")
    assert markdown(load(tmp_path / "results.json"), []) == markdown(some_results(), [])


def test_tables_say_what_was_wanted_measured_and_not_measured():
    text = markdown(some_results(), [])
    assert "| 512 KB CT, 1 association | >= 1 x DCMTK | 2.11 | 950 MB/s | 0.30 |" in text
    assert "| 512 KB CT, 16 associations | >= 1.5 x DCMTK | not measured |" in text
    assert "- 512 KB CT, 1 association: C: no compiler" in text


def test_the_readme_is_written_between_its_marks_only(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_readme(readme_section(some_results(), "plot.svg"), readme)
    text = readme.read_text()
    assert text.startswith(f"before\n{BEGIN}\n`make bench`")
    assert text.endswith(f"(plot.svg)\n{END}\nafter\n")
    assert "| receiving 512 KB instances, 1 association | 950 MB/s | 0.30 s per GB | 2.11 x |" in text


def test_the_readme_has_the_marks():
    text = (Path(__file__).parent.parent / "README.md").read_text()
    assert text.count(BEGIN) == text.count(END) == 1
