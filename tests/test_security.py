"""Nothing is run that a file brought along, and nothing listens to other machines."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CODE = [*ROOT.glob("gim_bench/**/*.py"), *ROOT.glob("baselines/**/*.py")]
# Modules that run what they read, and functions that do unless they are told not to.
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
SAFE = {"torch.load": {"weights_only": True}, "np.load": {"allow_pickle": False},
        "numpy.load": {"allow_pickle": False}}  # fmt: skip
RUNS = {"eval", "exec", "compile", "os.system", "os.popen", "np.fromregex"}
# Functions that start servers, and the host that they must be given. Ranks on several machines
# listen on the address that a user names (docs/pipeline.md).
LISTENERS = re.compile(r"(?:HTTPServer|TCPServer|\bcreate_server|\bbind)$")
NAMED_BY_USERS = {"gim_bench/hardware/ranks.py", "gim_bench/training/agents.py"}
COMMANDS = re.compile(r"(?:--host|--bind|-b)[ =]+(\S+)")
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def _trees():
    return [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in CODE]


def _imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


def unsafe_calls(tree):
    """Calls that may run what they are given."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        told = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
        if name in RUNS or not SAFE.get(name, {}).items() <= told.items():
            yield ast.unparse(node)


def test_nothing_is_unpickled_that_another_program_could_have_written():
    found = {path.name: set(_imports(tree)) & UNPICKLERS for path, tree in _trees()}
    assert not {name: modules for name, modules in found.items() if modules}
    assert not [call for _, tree in _trees() for call in unsafe_calls(tree)]


@pytest.mark.parametrize(
    "call",
    ["torch.load(path)", "torch.load(path, weights_only=False)", "np.load(path)", "eval(text)",
     "np.load(path, allow_pickle=True)"],
)  # fmt: skip
def test_an_unsafe_call_would_be_found(call):
    assert list(unsafe_calls(ast.parse(call))) == [call]


def test_archives_are_only_read_member_by_member():
    """What `unpack` extracts goes to a path that is not the archive's; see test_files.py."""
    extractors = {"extractall", "extract", "unpack_archive"}
    found = [
        f"{path.name}: {node.attr}"
        for path, tree in _trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in extractors
    ]
    assert not found


def listening(tree):
    """The host in each call that starts a server; None where the host is no literal."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and LISTENERS.search(ast.unparse(node.func)):
            match node.args:
                case [ast.Tuple(elts=[ast.Constant(value=host), _]), *_]:
                    yield host
                case _:
                    yield None


def test_servers_listen_on_the_loopback_address_alone_but_for_ranks():
    """Servers of tests and of the package, and those that the documentation has people start."""
    pages = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), ROOT / "tox.ini"]
    hosts = [(p.name, host) for p in pages for host in COMMANDS.findall(p.read_text("utf-8"))]
    sources = [*ROOT.glob("tests/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]
    trees = [*_trees(), *((p, ast.parse(p.read_text(encoding="utf-8"))) for p in sources)]
    found = [(p.relative_to(ROOT).as_posix(), host) for p, t in trees for host in listening(t)]
    named = {name for name, host in found if host is None and not name.startswith("tests/")}
    assert named == NAMED_BY_USERS
    hosts += [(name, host) for name, host in found if host is not None]
    assert len(hosts) > 3
    assert not [(name, host) for name, host in hosts if host not in LOOPBACK]
