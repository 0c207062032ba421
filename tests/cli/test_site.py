"""`site` and `verify`: from somebody's records to a line of the leaderboard."""

import json
import shutil

import pytest

from gim_bench.records import provenance
from gim_bench.seals import sealed
from gim_bench.site.submissions import read_submission
from gim_bench.site.verification import standing_of
from gim_bench.tracking import Tracker
from tests.check.cells import COMMITTED
from tests.cli.commands import PLAIN, records
from tests.site.made import sent as made
from tests.site.made import submission_of

SITE = ("site", "--suite", "./tiny.toml", "--submissions", "submissions", "--output", "public")
VERIFY = ("verify", "--submission", "submissions/ann", "--suite", "./tiny.toml")


@pytest.fixture(autouse=True)
def clean_checkout(monkeypatch):
    monkeypatch.setattr(provenance, "git_state", lambda: COMMITTED)


@pytest.fixture
def sent(finished, tmp_path):
    """ann sends the records of the tiny suite, as they are."""
    shutil.copytree(tmp_path / "runs", tmp_path / "submissions" / "ann")
    return tmp_path / "submissions" / "ann" / "tiny"


def altered(folder, *, reseal, where="*/seed-*"):
    """Raise the accuracy in every record there by three points."""
    for path in folder.glob(f"{where}/record.json"):
        record = json.loads(path.read_text())
        record["metrics"]["accuracy"] += 3.0
        path.write_text(json.dumps(sealed(record) if reseal else record))


def board(folder):
    return (folder / "public" / "leaderboard.html").read_text()


def test_honest_records_are_listed_once_a_cell_has_run_again(sent, gim_bench, tmp_path):
    answer = gim_bench(*SITE)
    assert answer.code == 0, answer.err
    assert "ann" not in board(tmp_path)
    assert "waits for python -m gim_bench verify" in (tmp_path / "public/index.html").read_text()
    answer = gim_bench(*VERIFY, "--seed", "1")
    assert answer.code == 0, answer.err
    assert answer.out.endswith("numbers hold bit for bit\n")
    assert answer.err.splitlines()[-1] == "wrote submissions/ann/tiny/verified.json"
    assert gim_bench(*SITE).code == 0
    assert "<td>ann</td>" in board(tmp_path)


def test_nobody_knows_the_draw_beforehand(sent, gim_bench):
    """Without --seed, the seed is drawn, printed and stored."""
    seeds = []
    for _ in range(2):
        answer = gim_bench(*VERIFY)
        assert answer.code == 0, answer.err
        (cell,) = json.loads((sent / "verified.json").read_text())["cells"]
        assert f", draw {cell['seed']}: " in answer.err
        seeds.append(cell["seed"])
    assert seeds[0] != seeds[1]


def test_an_altered_number_is_refused_in_one_line(sent, gim_bench, tmp_path):
    altered(sent, reseal=False)
    answer = gim_bench(*VERIFY)
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert answer.err.startswith("error: refused: submissions/ann/tiny/")
    answer = gim_bench(*SITE)
    assert answer.code == 0
    (line,) = [line for line in answer.err.splitlines() if line.startswith("refused: ")]
    assert "the record was altered or cut off since it was written" in line
    assert "ann" not in board(tmp_path)


def test_an_altered_number_under_a_new_seal_does_not_hold(sent, gim_bench):
    altered(sent, reseal=True)
    answer = gim_bench(*VERIFY)
    assert answer.code == 1
    assert "accuracy is " in answer.out
    listed, reason, _ = standing_of(read_submission(sent.parent, suite="tiny"))
    assert not listed
    assert reason == f"refused: {answer.out.strip()}"


def test_one_altered_number_under_a_new_seal_is_found_where_all_cells_run_again(
    sent, gim_bench, tmp_path
):
    altered(sent, reseal=True, where="random_init/seed-0-*")
    answer = gim_bench(*VERIFY, "--cells", "9")
    assert answer.code == 1, answer.err
    (line,) = [each for each in answer.out.splitlines() if "the record says" in each]
    assert line.startswith("random_init seed 0 ran again on")
    assert gim_bench(*SITE).code == 0
    assert "ann" not in board(tmp_path)


def test_records_with_other_settings_are_not_listed_beside_ours(sent, gim_bench, tmp_path):
    """Whether the site knows the suite by its file, or the suite is shipped."""
    submission_of([made()], root=tmp_path / "submissions" / "ben")
    assert gim_bench(*VERIFY).code == 0
    toml = tmp_path / "tiny.toml"
    toml.write_text(toml.read_text().replace("steps = 4", "steps = 5"))
    assert gim_bench(*PLAIN).code == 0
    answer = gim_bench(*SITE)
    assert answer.code == 0, answer.err
    refused = [line for line in answer.err.splitlines() if line.startswith("refused: ")]
    assert [line.partition(": its settings or its protocol ")[2] for line in refused] == [
        f"are not those of suite {suite!r}: send cells of the suite as it is"
        for suite in ("tiny", "quickstart")
    ]
    assert "<td>gim_bench</td>" in board(tmp_path)
    assert "ann" not in board(tmp_path)


def test_records_with_other_settings_are_refused(sent, gim_bench):
    answer = gim_bench(*VERIFY[:-1], "quickstart")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "no record of suite 'quickstart' in submissions/ann" in answer.err
    toml = sent.parents[2] / "tiny.toml"
    toml.write_text(toml.read_text().replace("epochs = 1", "epochs = 2"))
    answer = gim_bench(*VERIFY)
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "its settings or its protocol are not those of suite 'tiny'" in answer.err


def test_records_lead_to_their_runs_on_a_server(finished, gim_bench, monkeypatch, tmp_path):
    (record,) = [r for r in records(tmp_path) if r["method"] == "gim"]
    page = "http://mlflow.example/#/experiments/1/runs/2"
    monkeypatch.setattr(Tracker, "check", lambda _: None)
    monkeypatch.setattr(Tracker, "pages_of_cells", lambda *_: {record["key"]: page})
    answer = gim_bench(*SITE[:3], "--tracking-uri", "http://mlflow.example")
    assert answer.code == 0
    assert answer.err.splitlines()[-1].endswith("files to site: open site/index.html")
    linked = [path for path in (tmp_path / "site").rglob("*.html") if page in path.read_text()]
    assert [path.parent.name for path in linked] == ["gim"]


def test_suites_of_ones_own_are_named_by_their_files(finished, gim_bench):
    answer = gim_bench("site")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert answer.err.startswith("error: no records in runs: name the folder with --runs-dir, or")


def test_a_suite_without_records_is_left_out_with_a_line(finished, gim_bench):
    answer = gim_bench("site", "--suite", "./tiny.toml", "--suite", "smoke")
    line, wrote = answer.err.splitlines()
    assert line == "left out: suite 'smoke', which has no records in runs with its settings"
    assert (answer.code, wrote.startswith("wrote ")) == (0, True)


def test_a_suite_that_is_named_twice_is_refused(finished, gim_bench, tmp_path):
    answer = gim_bench("site", "--suite", "./tiny.toml", "--suite", str(tmp_path / "tiny.toml"))
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert answer.err.startswith("error: --suite names suite 'tiny' 2 times: name it once")


def test_a_history_that_is_not_there_is_one_line_with_where_it_comes_from(finished, gim_bench):
    answer = gim_bench("site", "--suite", "./tiny.toml", "--history", "nofile")
    assert answer.code == 2
    assert answer.err == (
        "error: cannot read the history nofile (No such file or directory): name a file that "
        "check --history has written\n"
    )


@pytest.mark.parametrize("link", ["docs/index.html", "Docs=", "Docs=javascript://x"])
def test_what_is_no_link_is_refused_in_one_line(link, finished, gim_bench):
    answer = gim_bench("site", "--suite", "./tiny.toml", "--link", link)
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "--link Documentation=docs/index.html" in answer.err


def test_only_a_server_has_pages_to_link_to(finished, gim_bench):
    answer = gim_bench(*SITE[:3], "--tracking-uri", "sqlite:///mlflow.db")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "has no pages to link to" in answer.err
