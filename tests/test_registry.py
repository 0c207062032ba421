"""Methods and data sets come from entry points, anyone's; listing them imports no torch."""

import subprocess
import sys
from importlib.metadata import EntryPoint, PackageNotFoundError
from types import SimpleNamespace

import pytest

from baselines import METHODS as METHODS_OF_BASELINES
from gim_bench import registry
from gim_bench.datasets import DATASETS
from gim_bench.encoders import ENCODERS
from gim_bench.errors import ConfigError
from gim_bench.methods import METHODS as METHODS_OF_GIM_BENCH
from gim_bench.methods.gim import GreedyInfoMax

METHODS = "gim_bench.methods"
TABLES = {
    "first": {"one": "tests.tiny_suite:Broken"},
    "second": {"two": "tests.tiny_suite:Diverging"},
    "same_again": {"one": "tests.tiny_suite:Broken"},
    "clash": {"one": "elsewhere:Other"},
    "not_strings": {"one": 1},
    "no_colon": {"one": "tests.tiny_suite.Broken"},
    "a_list": ["one"],
    "empty": {},
}
globals().update(TABLES)  # what the entry points below name


@pytest.fixture
def installed(monkeypatch):
    """Pretends that just these entry points are installed."""

    def install(*values):
        points = [
            EntryPoint(name=f"package{i}", value=value, group=METHODS)
            for i, value in enumerate(values)
        ]
        monkeypatch.setattr(
            registry, "entry_points", lambda *, group: points if group == METHODS else []
        )
        monkeypatch.setattr(registry, "methods", registry.methods.__wrapped__)  # not remembered

    return install


def table(name):
    return f"{__name__}:{name}"


def one_line(error):
    message = str(error.value)
    assert "\n" not in message
    return message


# -- tables ----------------------------------------------------------------------------------------


def test_the_shipped_methods_and_data_sets_are_found():
    assert set(registry.methods()) >= {
        "gim",
        "cpc",
        "supervised",
        "greedy_supervised",
        "random_init",
        "gim_no_bptt",
        "gim_no_ar",
        "mfcc",
    }
    assert set(registry.datasets()) >= {
        "photos",
        "stl10",
        "image_folder",
        "espeak",
        "librispeech",
        "audio_folder",
    }


def test_every_shipped_name_leads_to_a_class():
    for name in registry.methods():
        assert registry.method(name).traits is not None
    for name in registry.datasets():
        assert registry.dataset(name).Options is not None


def test_a_name_leads_to_its_class():
    assert registry.method("gim") is GreedyInfoMax


def test_tables_of_several_packages_are_merged(installed):
    installed(table("first"), table("second"))
    assert registry.methods() == TABLES["first"] | TABLES["second"]


def test_entry_points_of_the_backport_are_as_good(monkeypatch):
    """MLflow imports importlib_metadata, which then answers in the standard library's place."""
    point = SimpleNamespace(value="theirs:METHODS", group=METHODS, load=lambda: TABLES["first"])
    monkeypatch.setattr(registry, "entry_points", lambda *, group: [point])
    assert registry.methods.__wrapped__() == TABLES["first"]


def test_a_name_from_two_packages_is_an_error_that_names_both(installed):
    installed(table("first"), table("clash"))
    with pytest.raises(ConfigError) as error:
        registry.methods()
    message = one_line(error)
    assert message.startswith("'one' is registered twice in gim_bench.methods: ")
    assert table("first") in message
    assert table("clash") in message


def test_the_same_row_seen_twice_is_no_clash(installed):
    """An editable install beside a regular one shows its entry points twice."""
    installed(table("first"), table("same_again"))
    assert registry.methods() == TABLES["first"]


def test_nothing_registered_says_to_install(installed):
    installed()
    with pytest.raises(ConfigError, match=r"nothing is registered .*pip install \."):
        registry.methods()


@pytest.fixture
def not_installed(installed, monkeypatch):
    """Pretends that no package is installed, this one included."""

    def refuse(name):
        raise PackageNotFoundError(name)

    installed()
    monkeypatch.setattr(registry, "distribution", refuse)


@pytest.mark.usefixtures("not_installed")
def test_a_checkout_that_is_not_installed_has_the_entry_points_of_its_project_file():
    found = {kind: getattr(registry, kind).__wrapped__() for kind in ("encoders", "datasets")}
    assert {**found, "methods": registry.methods()} == {
        "methods": {**METHODS_OF_GIM_BENCH, **METHODS_OF_BASELINES},
        "encoders": ENCODERS,
        "datasets": DATASETS,
    }


@pytest.mark.usefixtures("not_installed")
@pytest.mark.parametrize("text", [None, '[project]\nname = "somebody-elses"\n'])
def test_a_folder_of_another_project_declares_nothing_for_this_one(text, tmp_path, monkeypatch):
    """As site-packages, whose parent may hold any project."""
    if text is not None:
        (tmp_path / "pyproject.toml").write_text(text)
    monkeypatch.setattr(registry, "CHECKOUT", tmp_path)
    with pytest.raises(ConfigError, match="nothing is registered"):
        registry.methods()


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("no_such_package:METHODS", "No module named 'no_such_package'"),
        (table("no_such_table"), "no_such_table"),
        (table("not_strings"), "must name a table"),
        (table("no_colon"), "must name a table"),
        (table("a_list"), "must name a table"),
    ],
)
def test_a_broken_entry_point_gets_one_line_that_names_it(value, complaint, installed):
    installed(table("first"), value)
    with pytest.raises(ConfigError) as error:
        registry.methods()
    message = one_line(error)
    assert value in message
    assert complaint in message


def test_a_package_whose_import_fails_in_many_lines_still_gets_one(
    installed, tmp_path, monkeypatch
):
    (tmp_path / "falls_over.py").write_text("raise RuntimeError('one\\ntwo\\nthree')\n")
    monkeypatch.syspath_prepend(tmp_path)
    installed("falls_over:METHODS")
    with pytest.raises(ConfigError) as error:
        registry.methods()
    assert "falls_over:METHODS" in one_line(error)


# -- one class -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "name", "answer"),
    [
        (registry.method, "gmi", "no method 'gmi' (--method). Did you mean 'gim'? Available: "),
        (registry.dataset, "stl1", "no dataset 'stl1' (--method). Did you mean 'stl10'? "),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_one(ask, name, answer):
    with pytest.raises(ConfigError) as error:
        ask(name, where="--method")
    assert one_line(error).startswith(answer)


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("no_such_package.module:Class", "cannot be loaded: ModuleNotFoundError: No module named"),
        ("gim_bench.methods.gim:NoSuchClass", "cannot be loaded: AttributeError: module"),
        ("gim_bench.contract:Dataset", "is not a Learner"),
        ("gim_bench.errors:unknown_name", "is not a Learner"),
    ],
)
def test_a_row_that_leads_nowhere_gets_one_line(target, complaint, monkeypatch):
    monkeypatch.setattr(registry, "methods", lambda: {"mine": target})
    with pytest.raises(ConfigError) as error:
        registry.method("mine")
    assert complaint in one_line(error)


def test_a_third_partys_module_that_cannot_be_imported_gets_one_line(tmp_path, monkeypatch):
    (tmp_path / "unimportable.py").write_text("def broken(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "methods", lambda: {"mine": "unimportable:Mine"})
    with pytest.raises(ConfigError) as error:
        registry.method("mine")
    assert "the method 'mine' cannot be loaded" in one_line(error)


def test_a_method_without_traits_gets_one_line(tmp_path, monkeypatch):
    (tmp_path / "traitless.py").write_text(
        "from gim_bench.contract import Learner\nclass Mine(Learner):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "methods", lambda: {"mine": "traitless:Mine"})
    with pytest.raises(ConfigError) as error:
        registry.method("mine")
    assert "(traitless:Mine) declares no traits: add traits = Traits(" in one_line(error)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"trains_on": "train"}, "Traits.trains_on = 'train': use a member of Split"),
        ({"gradient_flow": "isolated"}, "use a member of GradientFlow"),
        ({"objective": "info_nce"}, "use Objective(name=…)"),
    ],
)
def test_text_in_the_place_of_a_trait_is_refused(wrong, complaint):
    program = (
        "from dataclasses import replace; from gim_bench.methods.gim import GreedyInfoMax as gim\n"
        f"replace(gim.traits, **{wrong!r})"
    )  # in a process of its own, where types are not checked before
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert complaint in done.stderr.splitlines()[-1]


# -- listing without importing ---------------------------------------------------------------------


def test_a_summary_is_the_first_line_of_the_docstring_of_a_class_that_is_not_imported(
    tmp_path, monkeypatch
):
    (tmp_path / "mine.py").write_text(
        "raise RuntimeError('imported')\n"
        "class Other:\n    '''Not this one.'''\n"
        "class Mine:\n    '''All in one line.\n\n    And more.\n    '''\n"
        "class Silent: ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert registry.summary("mine:Mine") == "All in one line."
    assert registry.summary("mine:Silent") == ""
    assert registry.summary("mine:Gone") == "there is no class 'Gone' in mine"
    assert "mine" not in sys.modules


@pytest.mark.parametrize("target", ["no_such_package:Mine", "no.such.package:Mine", "sys:Mine"])
def test_a_target_without_a_source_says_so_instead_of_failing(target):
    assert registry.summary(target) == f"cannot be imported from {target}"


def test_every_shipped_row_has_a_summary():
    for target in [*registry.methods().values(), *registry.datasets().values()]:
        assert registry.summary(target).endswith((".", "?")), target


@pytest.mark.parametrize("what", ["methods", "datasets", "suites"])
def test_listing_imports_nothing_heavy(what):
    program = (
        "import sys\n"
        f"sys.argv = ['gim_bench', 'list', '{what}']\n"
        "from gim_bench.cli.main import main\n"
        "try:\n    main()\n"
        "except SystemExit as exit:\n    assert exit.code == 0\n"
        "heavy = {'torch', 'torchvision', 'mlflow', 'pandas', 'scipy', 'skimage', 'numpy'}\n"
        "print('heavy:', *sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=600
    )
    lines = done.stdout.splitlines()
    assert lines[-1] == "heavy:"
    assert len(lines) > 2
    assert done.stderr == ""
