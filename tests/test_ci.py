"""Scripts of continuous integration: the comment on a pull request, and the published history."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GH = """#!/usr/bin/env bash
printf '%s\\n' "$*" >> "$CALLS"
case "$*" in *--paginate*) printf '%s' "$FOUND" ;; esac
"""
CURL = """#!/usr/bin/env bash
while [ "$1" != --output ]; do shift; done
[ "$CODE" != 200 ] || echo '{"at": "then"}' > "$2"
printf '%s' "$CODE"
"""
MARKER = "<!-- gim_bench check smoke -->"


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Runs a script with stand-ins for gh and curl; the calls of gh are kept in a file."""
    for name, text in (("gh", GH), ("curl", CURL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))

    def run(name, *arguments):
        command = ["bash", ROOT / ".ci" / name, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    return run


@pytest.mark.parametrize(
    ("found", "call"),
    [
        ("", "--method POST repos/a/b/issues/7/comments"),
        (f"5\tHello\n8\t{MARKER}\n", "--method PATCH repos/a/b/issues/comments/8"),
        ("5\t<!-- gim_bench check stl10 -->\n", "--method POST repos/a/b/issues/7/comments"),
    ],
)
def test_a_comment_replaces_the_one_with_the_same_marker(
    found, call, script, tmp_path, monkeypatch
):
    (tmp_path / "comment.md").write_text(f"{MARKER}\n# Check of smoke: passes\n")
    monkeypatch.setenv("FOUND", found)
    assert script("comment", "comment.md", "a/b", "7").returncode == 0
    assert (tmp_path / "calls").read_text().splitlines()[-1] == (
        f"api --silent {call} --field body=@comment.md"
    )


def test_a_file_without_a_marker_is_no_comment(script, tmp_path):
    (tmp_path / "check.md").write_text("# Check of smoke: passes\n")
    ended = script("comment", "check.md", "a/b", "7")
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert not (tmp_path / "calls").exists()


@pytest.mark.parametrize(
    ("code", "history"), [("200", '{"at": "then"}\n'), ("404", ""), ("503", None)]
)
def test_a_history_is_fetched_or_begun_but_never_lost(code, history, script, tmp_path, monkeypatch):
    monkeypatch.setenv("CODE", code)
    ended = script("history", "https://example.org/history.jsonl", "history.jsonl")
    assert ended.returncode == (0 if history is not None else 1)
    if history is not None:
        assert (tmp_path / "history.jsonl").read_text() == history


def test_packages_that_cannot_be_fetched_end_no_run(script, tmp_path):
    """Their tests are skipped; the stand-in for Python shows how far the script came."""
    stand_ins = {
        "dpkg": "exit 1",
        "apt-get": "exit 100",
        "sudo": 'shift; "$@"',
        "python3": "exit 7",
    }
    for name, text in stand_ins.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    ended = script("run")
    assert ended.returncode == 7
    assert "tests that need postgresql are skipped" in ended.stderr


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_pinned_actions_that_keep_no_token(workflow):
    text = workflow.read_text()
    actions = re.findall(r"uses: (\S+)", text)
    assert actions
    assert all(re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", action) for action in actions)
    assert text.count("actions/checkout@") == text.count("persist-credentials: false")


def test_the_job_that_runs_the_code_of_a_pull_request_may_write_nothing():
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    tested, comment = text.split("\n  comment:\n")
    assert ": write" not in tested
    assert re.findall(r"([\w-]+): write", comment) == ["pull-requests"]
    assert "ref: ${{ github.event.pull_request.base.sha }}" in comment


def test_the_site_is_published_with_the_least_permissions():
    text = (ROOT / ".github" / "workflows" / "site.yml").read_text()
    build, publish = text.split("\n  publish:\n")
    assert re.findall(r"\w+: write|id-token: write", build) == []
    assert re.findall(r"([\w-]+): write", publish) == ["pages", "id-token"]
