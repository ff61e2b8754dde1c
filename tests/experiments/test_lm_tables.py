"""Tables and pictures of language models: which row a run has, what stands beside it, and what is asked."""

from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import pytest

from feedalign.experiments.headlines import headlines
from feedalign.experiments.lm import preset
from feedalign.experiments.lm.demands import demands_table
from feedalign.experiments.lm.pictures import lm_pictures
from feedalign.experiments.lm.rows import WHERE, families
from feedalign.experiments.lm.tables import lm_tables
from feedalign.experiments.records import Record, Run, describe

PERPLEXITIES = {("bp", "", ""): 90.0, ("shallow", "", ""): 300.0}
SMALL = {
    **PERPLEXITIES,
    ("dfa", "macro", "hidden"): 117.0,
    ("dfa", "macro", "logits"): 144.0,
    ("dfa", "micro", "hidden"): 171.0,
}


def made(name, rule, points, error, ours, seed=0, **options):
    """The run of a preset with a perplexity of the given size on validation text, and twice that on test text."""
    options = {**options, **({"points": points, "error": error} if points else {})}
    config = preset(name, rule, seed, **options)
    figures = {"validation_perplexity": ours + seed, "test_perplexity": 2 * (ours + seed), "test_word_perplexity": 9.0}
    places = [
        f"blocks.{number}{part}" for number in (0, 10, 2) for part in ((".norm1", "") if points == "micro" else ("",))
    ]
    cosines = {place: {"mean": 0.5, "std": 0.1, "n": 8, "zero_error": 0, "undefined": 0} for place in places}
    aligned = cosines if points else None
    record = Record(
        experiment="lm", name=config.name, rule=config.rule, seed=seed, config=describe(config), versions={},
        device="cpu", threads=1, commit=None, dirty=False, started="2026-01-01T00:00:00",
        wall_seconds=1.0, peak_memory_bytes=1,
        parameters=1, data={"name": "wikitext", "train": 1_000, "train_words": 800, "vocabulary": 300},
        metrics={"best": figures, "final": figures, "speed": {"tokens_per_second": 5_000.0}}, alignment=aligned,
    )  # fmt: skip
    curve = [
        {"epoch": epoch, "step": 100 * epoch, "validation_perplexity": ours * (3 - epoch), "alignment": aligned}
        for epoch in range(3)
    ]
    return Run(Path(config.name), record, curve, None)


def small(changed=None, seeds=(0,), name="wikitext-2-small"):
    found = {**SMALL, **(changed or {})}
    return [made(name, *key, ours, seed) for key, ours in found.items() for seed in seeds]


def test_runs_of_a_preset_stand_in_one_table_in_order():
    table = lm_tables(small(seeds=(0, 2)))[0]
    assert table.title == "wikitext-2-small: perplexity"
    assert [row[0] for row in table.rows] == [
        "backprop",
        "DFA macro, before the vocabulary",
        "DFA macro, at the logits",
        "DFA micro, before the vocabulary",
        "shallow",
    ]
    assert table.headings[:4] == ("rule", "seeds", "validation", "over backprop")
    by_rule = {row[0]: row for row in table.rows}
    assert by_rule["backprop"][1:4] == ("2", "91.0 ± 12.7", "1.00")
    assert by_rule["DFA macro, before the vocabulary"][3] == f"{118 / 91:.2f}"
    assert by_rule["shallow"][4].startswith("602.0")
    assert any("1,000 training tokens (800 words)" in note for note in table.notes)


def test_what_was_changed_makes_another_table_and_open_blocks_another_row():
    runs = [*small(), made("wikitext-2-small", "dfa", "macro", "hidden", 100.0, last=False)]
    changed = [
        Run(run.directory, replace(run.record, name=f"{run.record.name}_epochs-2"), run.curve, None) for run in small()
    ]
    found = families([*runs, *changed])
    assert set(found) == {"wikitext-2-small", "wikitext-2-small_epochs-2"}
    assert "DFA macro, before the vocabulary, last block open" in {row.words for row in found["wikitext-2-small"]}
    assert len(found["wikitext-2-small_epochs-2"]) == 5


def test_runs_of_other_experiments_are_left_out():
    (run, *_) = small()
    other = Run(run.directory, Record(**{**asdict(run.record), "experiment": "vision"}), run.curve, None)
    assert lm_tables([other]) == []
    assert list(lm_pictures([other])) == []


@pytest.mark.parametrize(
    ("row", "rule", "points", "error", "expected"),
    [
        ("noam", "bp", "", "", "34.4"),
        ("noam", "shallow", "", "", "428"),
        ("noam", "dfa", "macro", "hidden", "95"),
        ("noam", "dfa", "micro", "hidden", "182"),
        ("beta2", "bp", "", "", "29.8"),
        ("plateau", "dfa", "macro", "hidden", "52"),
        ("plateau", "dfa", "micro", "hidden", "93.3"),
        ("plateau", "dfa", "macro", "logits", "-"),
        ("radam", "dfa", "macro", "hidden", "-"),
        ("adam", "bp", "", "", "-"),
    ],
)
def test_published_figure_stands_behind_that_of_the_same_row(row, rule, points, error, expected):
    table = lm_tables([made(f"wikitext-103-paper-{row}", rule, points, error, 50.0)])[0]
    assert table.headings[-1] == "published, validation"
    assert table.rows[0][-1] == expected


def test_figures_without_backprop_have_no_ratio():
    table = lm_tables([made("wikitext-2-small", "dfa", "macro", "hidden", 50.0)])[0]
    assert table.rows[0][3] == "-"


def test_alignment_goes_from_input_to_output():
    table = next(table for table in lm_tables(small()) if "alignment" in table.title)
    assert [row[0] for row in table.rows] == [
        "blocks.0.norm1", "blocks.0", "blocks.2.norm1", "blocks.2", "blocks.10.norm1", "blocks.10",
    ]  # fmt: skip
    assert table.rows[0][1:] == ("-", "-", "0.500")


def met(rows):
    return [row[2] for row in demands_table("wikitext-2-small", families(rows)["wikitext-2-small"]).rows]


def test_what_is_asked_is_met_or_not_or_not_run():
    assert met(small()) == ["yes", "yes", "no", "yes"]  # 144 over 90 is 1.6
    assert met(small({("dfa", "macro", "logits"): 130.0})) == ["yes", "yes", "yes", "yes"]
    assert met(small({("dfa", "macro", "hidden"): 172.0}))[:2] == ["no", "no"]  # micro is no longer behind macro
    assert met(small({("dfa", "micro", "hidden"): 181.0}))[3] == "no"
    assert met([run for run in small() if run.record.rule != "bp"]) == ["not run"] * 4
    assert any(table.title.startswith("wikitext-2-small: what is asked") for table in lm_tables(small()))
    assert len(lm_tables(small(name="python-small"))) == 2  # nothing is asked of that one


def test_what_is_asked_is_asked_again_of_open_last_blocks():
    opened = {("dfa", "macro", "hidden"): 100.0, ("dfa", "micro", "hidden"): 110.0, ("shallow", "", ""): 120.0}
    more = [made("wikitext-2-small", *key, ours, last=False) for key, ours in opened.items()]
    rows = families([*small(), *more])
    assert set(rows) == {"wikitext-2-small"}
    assert [row.words for row in rows["wikitext-2-small"]][-2:] == ["shallow", "shallow, last block open"]
    found = demands_table("wikitext-2-small", rows["wikitext-2-small"]).rows
    assert [row[2] for row in found] == ["yes", "yes", "no", "yes", "yes", "yes", "not run", "yes"]
    assert found[4][1] == "180.0, 200.0, 220.0, 240.0"
    assert all(row[0].endswith("last block open") for row in found[4:])


TUNED = {
    "wikitext-2-small-tuned": {
        "bp": {"optimiser.learning_rate": 0.003},
        "dfa": {"error": "logits", "last": False},
        "shallow": {"last": False},
    },
    "wikitext-2-small-micro-tuned": {"dfa": {"feedback.gain": 10.0}},
}


def test_tuned_settings_of_both_placements_stand_in_one_table_and_are_judged_together():
    found = (("bp", 80.0, ""), ("dfa", 100.0, ""), ("dfa", 150.0, "-micro"), ("shallow", 300.0, ""))
    runs = [made(f"wikitext-2-small{marks}-tuned", rule, "", "", ours, tuned=TUNED) for rule, ours, marks in found]
    perplexities, demands, *_ = lm_tables(runs)
    assert perplexities.title == "wikitext-2-small-tuned: perplexity"
    assert [row[0] for row in perplexities.rows] == [
        "backprop",
        "DFA macro, at the logits, last block open",
        "DFA micro, before the vocabulary",
        "shallow, last block open",
    ]
    assert [row[1:] for row in demands.rows] == [
        ("160.0, 200.0, 300.0, 600.0", "yes"),
        ("-", "not run"),
        ("1.25", "yes"),
        ("1.88", "yes"),
    ]


def test_another_tap_than_was_chosen_stands_beside_it_and_is_judged_too():
    runs = [
        made("wikitext-2-small-tuned", "bp", "", "", 80.0, tuned=TUNED),
        made("wikitext-2-small-tuned", "dfa", "", "", 100.0, tuned=TUNED),
        made("wikitext-2-small-tuned", "dfa", "macro", "hidden", 112.0, tuned=TUNED),
    ]
    perplexities, demands, *_ = lm_tables(runs)
    assert [row[0] for row in perplexities.rows][1:] == [
        "DFA macro, before the vocabulary, last block open",
        "DFA macro, at the logits, last block open",
    ]
    assert [row[1:] for row in demands.rows[1:3]] == [("1.40", "no"), ("1.25", "yes")]


def test_optimisers_stand_side_by_side_with_the_published_order():
    found = {"noam": 150.0, "adam": 120.0, "beta2": 110.0, "plateau": 115.0}
    runs = [made(f"wikitext-2-small-{name}", "dfa", "macro", "hidden", ours) for name, ours in found.items()]
    runs += [made("wikitext-2-small-noam", "bp", "", "", 70.0, seed) for seed in (0, 2)]
    *others, table, tested = lm_tables([*runs, *small()])
    assert [table.title for table in others] == [table.title for table in lm_tables(small())]  # none of their own
    assert table.title == "wikitext-2-small: validation perplexity by optimiser"
    assert table.headings == ("rule", *found, "from best to worst", "published")
    assert table.rows == (
        ("backprop", "71.0 ± 12.7", "-", "-", "-", "-", "beta2, noam"),
        (
            "DFA macro, before the vocabulary",
            *(f"{ours:.1f}" for ours in found.values()),
            "beta2, plateau, adam, noam",
            "plateau, beta2, adam, noam",
        ),
    )
    assert table.notes[0].endswith("here 1 or 2 of each run.")
    assert tested.title == "wikitext-2-small: test perplexity by optimiser"
    assert tested.headings == ("rule", *found, "from best to worst")
    assert tested.rows[1][1:] == ("300.0", "240.0", "220.0", "230.0", "beta2, plateau, adam, noam")


def test_one_optimiser_alone_has_a_table_like_any_preset():
    runs = [made("wikitext-2-small-noam", "bp", "", "", 70.0), made("wikitext-2-small-noam", "shallow", "", "", 140.0)]
    (table,) = lm_tables(runs)
    assert table.title == "wikitext-2-small-noam: perplexity"
    assert table.rows[1][:4] == ("shallow", "1", "140.0", "2.00")


def test_short_table_has_a_row_a_tap_and_whatever_tuning_chose():
    opened = [made("wikitext-2-small", "dfa", "macro", "hidden", 100.0, last=False)]
    opened += [made("wikitext-2-small", "shallow", "", "", 280.0, last=False)]
    tuned = [made("wikitext-2-small-tuned", "dfa", "", "", 95.0, tuned=TUNED)]
    tuned += [made("wikitext-2-small-micro-tuned", "dfa", "", "", 130.0, tuned=TUNED)]
    tuned += [made("wikitext-2-small-tuned", "dfa", "macro", "hidden", 99.0, tuned=TUNED)]  # not the tap it chose
    optimisers = [made(f"wikitext-2-small-{name}", "bp", "", "", 70.0) for name in ("noam", "beta2")]
    table = headlines([*small(), *opened, *tuned, *optimisers])[-1]
    assert table.title == "Language models: test perplexity"
    assert table.headings == ("configuration", "seeds", "backprop", "DFA macro", "DFA micro", "shallow")
    assert table.rows == (
        ("wikitext-2-small, before the vocabulary", "1", "180.0", "234.0", "342.0", "600.0"),
        ("wikitext-2-small, before the vocabulary, last block open", "1", "180.0", "200.0", "-", "560.0"),
        ("wikitext-2-small, at the logits", "1", "180.0", "288.0", "-", "600.0"),
        ("wikitext-2-small-tuned", "1", "-", "190.0", "260.0", "-"),
    )
    assert headlines([]) == headlines(optimisers) == []


def test_pictures_are_of_perplexity_and_alignment():
    for stacked in (False, True):
        found = dict(lm_pictures(small(seeds=(0, 1)), stacked))
        assert list(found) == ["wikitext-2-small-perplexity", "wikitext-2-small-alignment"]
        (curves,) = found["wikitext-2-small-perplexity"].axes
        assert len(curves.get_lines()) == 5
        line = curves.get_lines()[0]
        assert line.get_xdata().tolist() == pytest.approx([0.2048, 0.4096])  # of 100 steps of 2,048 tokens each
        assert line.get_ydata().tolist() == [180.0, 90.0]
        panels = [axes for axes in found["wikitext-2-small-alignment"].axes if axes.get_images()]
        assert [axes.get_title() for axes in panels] == [
            "DFA macro\nbefore the vocabulary", "DFA macro\nat the logits", "DFA micro\nbefore the vocabulary",
        ]  # fmt: skip
        assert panels[2].get_images()[0].get_array().shape == (6, 3)


def test_optimisers_share_a_picture_with_a_panel_a_rule():
    runs = [made(f"wikitext-2-small-{name}", "dfa", "macro", "hidden", 100.0) for name in ("noam", "beta2", "radam")]
    runs += [made("wikitext-2-small-beta2", "bp", "", "", 70.0, seed) for seed in (0, 1)]
    for stacked in (False, True):
        found = dict(lm_pictures([*runs, *small()], stacked))
        assert list(found)[-1] == "wikitext-2-small-optimisers"
        assert list(found)[:-1] == list(dict(lm_pictures(small())))  # none of their own
        backprop, macro = found["wikitext-2-small-optimisers"].axes
        assert (backprop.get_title(), macro.get_title()) == ("backprop", "DFA macro, before the vocabulary")
        assert [line.get_label() for line in macro.get_lines()] == ["noam", "beta2", "radam"]
        (line,) = backprop.get_lines()
        assert (line.get_label(), line.get_color()) == ("beta2", macro.get_lines()[1].get_color())
        assert len(backprop.collections) == 1  # the range between two seeds
    assert list(dict(lm_pictures(runs[:1]))) == ["wikitext-2-small-noam-perplexity", "wikitext-2-small-noam-alignment"]


def test_no_two_rows_look_alike():
    runs = [*small(), made("wikitext-2-small", "shallow", "", "", 280.0, last=False)]
    (curves,) = dict(lm_pictures(runs))["wikitext-2-small-perplexity"].axes
    looks = [(line.get_color(), line.get_linestyle(), line.get_marker()) for line in curves.get_lines()]
    assert len(set(looks)) == len(looks) == 6


def test_many_rows_do_not_look_alike_either():
    kinds = [(rule, points, error) for rule in ("dfa", "grape") for points, error in product(("macro", "micro"), WHERE)]
    runs = [made("wikitext-2-small", *kind, 100.0, last=last) for kind in kinds for last in (True, False)]
    (curves,) = dict(lm_pictures(runs))["wikitext-2-small-perplexity"].axes
    looks = [(line.get_color(), line.get_marker()) for line in curves.get_lines()]
    assert len(set(looks)) == len(looks) == 16


def test_backprop_alone_has_no_picture_of_alignment():
    assert [name for name, _ in lm_pictures([made("python-small", "bp", "", "", 9.0)])] == ["python-small-perplexity"]
