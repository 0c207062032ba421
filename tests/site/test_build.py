"""The site: pages whose links all lead somewhere, valid, accessible, and rebuilt in place."""

import errno
import json
import re
from contextlib import suppress
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gim_bench.check.history import Entry, Point
from gim_bench.errors import ConfigError
from gim_bench.records.folder import RunsFolder
from gim_bench.records.protocols import ProtocolResult, ReadAsSuite
from gim_bench.records.record import Status
from gim_bench.report import build
from gim_bench.site.again import verified
from gim_bench.site.build import MANIFEST, Content, OfSuite, build_site
from gim_bench.site.submissions import submissions_in
from gim_bench.site.verification import save_verification
from gim_bench.system.atomic import atomically, write_atomically
from tests.browser import opened, opened_browser, violations
from tests.report.cells import Suite, describes
from tests.site.made import seeds, sent, submission_of

RUN = "https://mlflow.example/#/experiments/1/runs/2"


def content_of(root, *, records, results=lambda _: {}, describes=describes, **changes):
    """The content of a site with one suite; `results` are those of further protocols."""
    runs = RunsFolder(root / "runs")
    for record in records:
        runs.save(record)
    report = build(records, suite=Suite(), describes=describes, results=results)
    of_suite = OfSuite(
        suite=Suite(),
        about="Half of <the> noise",
        records=records,
        runs=runs,
        report=report,
        results=ReadAsSuite(results, describes=describes),
    )
    return Content(**{"suites": [of_suite], "who": "us"} | changes)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Two methods of ours, ann's verified records, ben's that wait, carl's that were altered."""
    root = tmp_path_factory.mktemp("site")
    records = [*seeds([60, 62]), sent("random_init", accuracy=20), failed()]
    folder = root / "submissions"
    for who in ("ann", "ben", "carl"):
        found = submission_of([*seeds([65]), sent("cpc", accuracy=99)], root=folder / who)
        if who == "ann":
            seed = next(n for n in range(99) if found.drawn(seed=n)[0].method == "gim")
            (claim,) = found.drawn(seed=seed)
            again = verified(found, claim=claim, again=claim, seed=seed)
            save_verification(found, [again])
    altered = found.path_of(found.records[0])
    altered.write_text(altered.read_text().replace("9.0", "8.0"))
    sent_in, refused = submissions_in(folder)
    content = content_of(
        root,
        records=records,
        submissions=sent_in,
        refused=refused,
        history=history(),
        runs_in_mlflow={records[0].key: RUN},
    )
    build_site(content, output=root / "public")
    return root / "public"


def failed():
    return sent("cpc", status=Status.FAILED, error="<no> room", metrics={})


def history():
    """Two checks of one method."""
    return [
        Entry(
            at=f"2026-11-0{number}T10:00:00+00:00",
            suite="quickstart",
            method="gim",
            commit=commit * 40,
            outcome="passes",
            machine="A CPU, 1 thread(s)",
            data_sha256="0" * 64,
            results_version=5,
            metrics={"accuracy": Point(unit="%", mean=60.0 + number, std=1.0, seeds=3)},
        )
        for number, commit in ((1, "a"), (2, "b"))
    ]


class Links(HTMLParser):
    """The addresses of a page, and the text of each cell of a table with its link, if any."""

    def __init__(self, page):
        super().__init__()
        self.addresses, self.cells, self._cell = [], [], None
        self.feed(page.read_text())

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag in ("td", "th"):
            self._cell = ["", ""]
            self.cells.append(self._cell)
        if "href" in found or "src" in found:
            self.addresses.append(found.get("href") or found.get("src"))
            if tag == "a" and self._cell is not None:
                self._cell[1] = found["href"]

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._cell = None

    def handle_data(self, text):
        if self._cell is not None:
            self._cell[0] += text


def test_every_link_leads_to_a_file_of_the_site_or_to_mlflow(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 10
    for page in pages:
        for address in Links(page).addresses:
            assert address == RUN or (page.parent / address).is_file(), (page, address)


def test_links_of_the_navigation_lead_from_every_page(tmp_path):
    to = {"Docs": "docs/index.html", "Source": "https://example.org/code"}
    content = content_of(tmp_path, records=[sent()], links=to)
    build_site(content, output=tmp_path / "public")
    for page in (tmp_path / "public").rglob("*.html"):
        depth = len(page.relative_to(tmp_path / "public").parts) - 1
        addresses = Links(page).addresses
        assert "../" * depth + "docs/index.html" in addresses
        assert "https://example.org/code" in addresses


def test_every_number_of_the_report_is_a_link_to_its_records(site):
    page = site / "suites/quickstart/index.html"
    numbers = {text: link for text, link in Links(page).cells if re.match(r"[-+]?\d[^%]*$", text)}
    assert numbers["61.0 ± 1.4"] == "gim/index.html"
    assert numbers["20.0"].startswith("random_init/seed-0-")
    assert all(numbers.values())


def test_the_numbers_of_a_method_lead_to_the_record_of_each_seed(site):
    page = site / "suites/quickstart/gim/index.html"
    linked = {text: link for text, link in Links(page).cells if link}
    assert Path(linked["60"]).name.startswith("seed-0-")
    assert Path(linked["62"]).name.startswith("seed-1-")


def test_the_site_has_a_copy_of_each_record_as_it_was_sealed(site):
    (copy,) = site.glob("suites/quickstart/gim/seed-1-*.json")
    (record,) = (site.parent / "runs").glob("quickstart/gim/seed-1-*/record.json")
    assert copy.read_bytes() == record.read_bytes()


def test_the_page_of_a_record_leads_to_its_run_in_mlflow(site):
    first, second = sorted(site.glob("suites/quickstart/gim/seed-*.html"))
    assert RUN in Links(first).addresses
    assert RUN not in Links(second).addresses
    assert "accuracy/module_1" in first.read_text()


def test_a_submission_has_no_link_to_our_run_of_the_same_cell(site):
    pages = list((site / "submissions/ann").rglob("*.html"))
    assert pages
    assert not any(RUN in Links(page).addresses for page in pages)


def test_the_leaderboard_says_who_when_which_commit_and_on_what(site):
    rows = re.findall(r"<tr>(.*?)</tr>", (site / "leaderboard.html").read_text())
    words = [re.sub(r"<[^>]*>", "|", row) for row in rows]
    claimed, first, second, third = [[word for word in row.split("|") if word] for row in words[1:]]
    assert {text for text, link in Links(site / "leaderboard.html").cells if link} == {
        "cpc", "gim", "random_init", "99.0", "65.0", "61.0 ± 1.4", "± 12.7", "20.0", "1", "2",
    }  # fmt: skip
    assert claimed[:3] == ["cpc", "ann", "99.0"]
    assert claimed[-1] == "no cell of this row; gim seed 0 did"
    assert first[:3] == ["gim", "ann", "65.0"]
    assert first[-1].startswith("seed 0: bit for bit, 20")
    assert second[:3] == ["gim", "us", "61.0 ± 1.4"]
    assert second[-4:] == ["2026-11-01", "abcdef012345", "A CPU, 1 thread(s)", "measured here"]
    assert third[0] == "random_init"


def test_only_verified_records_of_others_are_listed(site):
    front = (site / "index.html").read_text()
    assert "waits for python -m gim_bench verify --submission" in front
    assert "refused: the record was altered" in front
    assert (site / "submissions/ann/quickstart/index.html").is_file()
    assert not (site / "submissions/ben").exists()
    assert not (site / "submissions/carl").exists()


def test_texts_of_records_are_escaped(site):
    (page,) = site.glob("suites/quickstart/cpc/seed-0-*.html")
    assert "&lt;no&gt; room" in page.read_text()
    assert "Half of &lt;the&gt; noise" in (site / "index.html").read_text()


def test_a_second_build_replaces_the_first_and_removes_what_is_gone(tmp_path):
    output = tmp_path / "public"
    build_site(content_of(tmp_path, records=seeds([60, 62])), output=output)
    (output / "CNAME").write_text("bench.example")
    build_site(content_of(tmp_path, records=seeds([60])), output=output)
    assert not list(output.glob("suites/*/gim/seed-1-*"))
    assert (output / "CNAME").exists()
    written = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    assert set(json.loads((output / MANIFEST).read_text())["files"]) == written - {"CNAME"}


def test_a_build_that_found_no_room_is_repeated(tmp_path, monkeypatch):
    """Whatever it had written, and on a site of before as well as in an empty folder."""
    output, content = tmp_path / "public", content_of(tmp_path, records=seeds([60]))
    for files in (3, 7):
        with monkeypatch.context() as patch:
            patch.setattr("gim_bench.site.build.write_atomically", room_for(files))
            with pytest.raises(OSError, match="No space left"):
                build_site(content, output=output)
        assert len([path for path in output.rglob("*") if path.is_file()]) == files
    build_site(content, output=output)
    written = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    assert set(json.loads((output / MANIFEST).read_text())["files"]) == written


def test_part_files_of_builds_that_were_killed_are_removed_and_no_others(tmp_path):
    """A folder of the manifest's alone is empty."""
    output, content = tmp_path / "public", content_of(tmp_path, records=seeds([60]))
    parts = [killed_write(output / MANIFEST)]
    build_site(content, output=output)
    parts += [killed_write(output / name) for name in ("index.html", "suites/quickstart/sent.html")]
    (page,) = output.glob("suites/quickstart/gim/seed-0-*.html")
    parts.append(killed_write(page))
    build_site(content, output=output)
    assert [part.exists() for part in parts] == [False, False, True, False]


def test_a_folder_with_the_part_of_another_file_is_left_alone(tmp_path):
    output, content = tmp_path / "public", content_of(tmp_path, records=seeds([60]))
    parts = [killed_write(output / name) for name in (MANIFEST, "thesis.tex")]
    with pytest.raises(ConfigError, match="holds files that are no site of this command"):
        build_site(content, output=output)
    assert all(part.exists() for part in parts)


def killed_write(path):
    """The part file that a process leaves which is killed as it writes a file."""
    with suppress(KeyboardInterrupt), atomically(path) as file:
        part = Path(file.name)
        raise KeyboardInterrupt
    part.write_bytes(b"half")
    return part


def room_for(files):
    """Writes so many files, and no more."""
    left = list(range(files))

    def write(path, content):
        if not left:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        left.pop()
        write_atomically(path, content)

    return write


def test_names_that_are_no_text_do_not_stop_a_build(tmp_path):
    content = content_of(tmp_path, records=seeds([60]), notes=["records in runs\udcff"])
    build_site(content, output=tmp_path / "public")
    assert r"records in runs\udcff" in (tmp_path / "public" / "index.html").read_text()


def test_a_folder_of_other_files_is_left_alone(tmp_path):
    (tmp_path / "public").mkdir()
    (tmp_path / "public" / "thesis.tex").write_text("all of it")
    with pytest.raises(ConfigError, match="holds files that are no site of this command"):
        build_site(content_of(tmp_path, records=seeds([60])), output=tmp_path / "public")
    assert [path.name for path in (tmp_path / "public").iterdir()] == ["thesis.tex"]


def test_other_data_has_a_table_of_its_own(tmp_path):
    ours, theirs = seeds([60]), sent(seed=0, accuracy=90)
    facts = {**theirs.provenance, "data_sha256": "f" * 64}
    found = submission_of([replace(theirs, provenance=facts)], root=tmp_path / "sent" / "ann")
    again = verified(found, claim=found.records[0], again=found.records[0], seed=0)
    save_verification(found, [again])
    content = content_of(tmp_path, records=ours, submissions=[found])
    build_site(content, output=tmp_path / "public")
    board = (tmp_path / "public" / "leaderboard.html").read_text()
    headings = re.findall(r"<h2>(.*?)</h2>", board)
    assert headings == ["quickstart, data 0123456789ab", f"quickstart, data {'f' * 12}"]


def test_the_leaderboard_has_no_result_that_was_read_with_other_settings(tmp_path):
    """Neither of a protocol that the suite changed nor beside results of the new settings."""

    def results(record):
        return {
            "knn": (
                ProtocolResult(
                    protocol="knn", suite=record.suite, method=record.method, seed=record.seed,
                    key=record.key, settings={"k": record.seed}, files={},
                    metrics={"accuracy": 30.0 + record.seed},
                ),
                None,
            )
        }  # fmt: skip

    def of_today(config):
        return config.get("read", {"k": 1}) == {"k": 1}

    content = content_of(tmp_path, records=seeds([60, 62]), results=results, describes=of_today)
    build_site(content, output=tmp_path / "public")
    board = (tmp_path / "public" / "leaderboard.html").read_text()
    assert "Protocol: knn" in board
    assert "31.0" in board
    assert "30.5" not in board
    page = (tmp_path / "public" / "suites/quickstart/index.html").read_text()
    assert "left out: 1 result(s) of `knn`, read with other settings" in page


# -- checkers --------------------------------------------------------------------------------------


def test_every_page_is_parsed_without_an_error(site):
    html5lib = pytest.importorskip("html5lib", reason="html5lib is not installed")
    for page in site.rglob("*.html"):
        html5lib.HTMLParser(strict=True).parse(page.read_text())


@pytest.mark.slow
def test_pages_are_accessible_in_light_and_dark_and_fit_a_telephone(site):
    """All rules of axe, with a style sheet that is read from beside the page."""
    (record,) = site.glob("suites/quickstart/random_init/seed-0-*.html")
    windows = [
        (site / "index.html", 360, "light"),
        (site / "leaderboard.html", 360, "dark"),
        (site / "checks.html", 1200, "dark"),
        (record, 360, "dark"),
    ]
    with opened_browser() as browser:
        for page, width, scheme in windows:
            with opened(browser, page, width=width, scheme=scheme) as window:
                assert violations(window) == [], page
                assert window.evaluate("document.documentElement.scrollWidth") == width, page
                ink = window.evaluate("getComputedStyle(document.body).color")
                assert (ink == "rgb(230, 230, 230)") == (scheme == "dark")
