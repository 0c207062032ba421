"""Keys of cells: they change with every setting, and a setting that is added later moves none.

`tests/golden/keys.json` holds the keys of all cells of the shipped suites, as made by the commit
60d465d; `first_settings.json` holds the settings of that commit, and `later_defaults.json` the
defaults of all settings that were added since. All of them are keys of results version 3.
"""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import create_model
from pydantic_core import to_jsonable_python

from gim_bench import registry
from gim_bench.cells.resolve import configs
from gim_bench.objectives.info_nce import INFO_NCE
from gim_bench.settings import schema
from gim_bench.settings.base import Settings
from gim_bench.settings.keys import FIRST, NOT_KEYED, RENAMED, keyed
from gim_bench.settings.optimisers import AdamSettings
from gim_bench.settings.schema import CapacitySettings, CellConfig, Precision, Suite
from gim_bench.settings.suites import load_suite, parse, shipped_suites
from tests.settings.tables import SPEECH, SUITE

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
KEYS = json.loads((GOLDEN / "keys.json").read_text())
FIRST_SETTINGS = json.loads((GOLDEN / "first_settings.json").read_text())
LATER_DEFAULTS = json.loads((GOLDEN / "later_defaults.json").read_text())
CPU = torch.device("cpu")
VERSION = 3  # the results version of the golden keys


@pytest.fixture
def version_of_golden_keys(monkeypatch):
    monkeypatch.setattr(schema, "RESULTS_VERSION", VERSION)


def cell(table: Mapping[str, Any] = SUITE, *, method: str = "gim") -> CellConfig:
    """The cell of that method in a suite of that table."""
    suite = parse(Suite, table, origin="test")
    return configs(suite, methods=[method], device=CPU)[method]


def key(config: CellConfig) -> str:
    return config.key(data_sha256="0" * 64, seed=0)


class Weighted(Settings):
    """Settings of an objective."""

    weight: float = 0.5


# A cell with every table that there is, and one of speech.
FULL = cell(
    SUITE
    | {
        "augmentation": {
            "kind": "crop",
            "crop": 32,
            "grayscale": False,
            "mean": [0.4, 0.4, 0.4],
            "std": [0.2, 0.2, 0.2],
            "resized": {},
            "jitter": {},
            "blur": {"kernel": 7},
            "further_views": [{"gray": 0.2, "solarise": {}}],
        },
        "training": SUITE["training"]
        | {
            "epochs": 4,
            "kept_outputs": {},
            "optimiser": {"kind": "sgd"},
            "rate_schedule": {"kind": "steps", "at": [2], "factor": 0.1},
        },
        "capacity": {"up_to": 64},
        "inside": {"examples": 16},
    },
    method="cpc",
).model_copy(update={"objective": Weighted(weight=0.7)})
PLAIN = cell(method="cpc")
SPOKEN = cell(SPEECH)
CELLS = {"plain": PLAIN, "full": FULL, "spoken": SPOKEN}

# -- the keys of 60d465d ---------------------------------------------------------------------------


@pytest.mark.usefixtures("version_of_golden_keys")
@pytest.mark.parametrize("name", sorted(KEYS))
def test_the_cells_of_a_shipped_suite_have_the_keys_that_they_always_had(name):
    """In bf16, whatever precision the hardware of the tests asks for."""
    found = {}
    for method, config in configs(load_suite(name), methods=[], device=CPU).items():
        training = config.training.model_copy(update={"precision": Precision.BF16})
        found[method] = key(config.model_copy(update={"training": training}))
    assert found == KEYS[name]


def test_the_keys_of_all_shipped_suites_are_pinned():
    assert sorted(KEYS) == sorted(shipped_suites()), "add the keys of the suite to keys.json"


def first(table: str) -> frozenset[str]:
    """The settings of a table, "augmentation:crop", that are in every key."""
    bare = table.partition(":")[0]
    return FIRST.get(bare, frozenset()) | FIRST.get(table, frozenset())


def test_the_settings_that_are_in_every_key_are_those_of_the_first_keys():
    """Another name in FIRST is one setting more in the key of every finished cell."""
    assert {table: sorted(first(table)) for table in FIRST_SETTINGS} == FIRST_SETTINGS
    bare = {table.partition(":")[0] for table in FIRST_SETTINGS}
    assert FIRST.keys() <= FIRST_SETTINGS.keys() | bare


# Computed at 60d465d, where the setting was called `views`.
TWO_EPOCHS_KEPT = "4020c4155e12d0a3c6084a8ca93fddc376b2fec3c73a7df105b08585f6ef208d"


@pytest.mark.usefixtures("version_of_golden_keys")
@pytest.mark.parametrize("name", ["views", "epochs"])
def test_a_renamed_setting_is_in_keys_by_its_former_name(name):
    """The key is of a row whose modules are trained together, which may keep no outputs now."""
    override = f"training.kept_outputs.{name}=2"
    kept = load_suite(str(GOLDEN / "smoke.toml"), overrides=[override]).training.kept_outputs
    config = configs(load_suite(str(GOLDEN / "smoke.toml")), methods=["gim"], device=CPU)["gim"]
    training = config.training.model_copy(update={"kept_outputs": kept})
    config = config.model_copy(update={"training": training})
    assert keyed(config)["training"]["kept_outputs"] == {"views": 2, "precision": "bf16"}
    assert key(config) == TWO_EPOCHS_KEPT


# -- settings that are added later -----------------------------------------------------------------

Path_ = tuple[str | int, ...]


@cache
def with_setting(model: type[Settings], name: str, *, default: Any) -> type[Settings]:
    """The class of a table with one more setting."""
    return create_model("Grown", __base__=model, **{name: (Any, default)})


def grown(
    value: Any, path: Path_, novelty: Any, *, default: Any = 3, called: str = "novelty"
) -> Any:
    """The settings as if the class of the table at `path` had one more setting, with that value.

    Where the table is the default of the table above, so is the table with the new setting.
    """
    options = {"default": default, "called": called}
    if isinstance(value, tuple):
        place, rest = path[0], path[1:]
        inner = grown(value[place], rest, novelty, **options)
        return (*value[:place], inner, *value[place + 1 :])
    model, entries = type(value), {name: getattr(value, name) for name in type(value).model_fields}
    if not path:
        more = with_setting(model, called, default=default)
        return more.model_construct(**entries | {called: novelty})
    name, rest = path[0], path[1:]
    field, inner = model.model_fields[name], entries[name]
    if not field.is_required() and field.get_default(call_default_factory=True) == inner:
        model = create_model(
            "Grown", __base__=model, **{name: (Any, grown(inner, rest, default, **options))}
        )
    return model.model_construct(**entries | {name: grown(inner, rest, novelty, **options)})


def tables(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """The places of all tables in the settings."""
    if isinstance(value, Settings):
        yield path
        for name in type(value).model_fields:
            yield from tables(getattr(value, name), (*path, name))
    elif isinstance(value, tuple):
        for place, each in enumerate(value):
            yield from tables(each, (*path, place))


def everywhere() -> list[Any]:
    """Every table of every cell; a data set's options stand in the table beside its name."""
    return [
        pytest.param(config, path, id=".".join(map(str, (name, *path))))
        for name, config in CELLS.items()
        for path in tables(config)
        if path != ("dataset",)
    ]


def test_later_settings_are_tried_in_tables_of_all_kinds():
    """The tests below say nothing about a table that is not among these."""
    places = {path for config in CELLS.values() for path in tables(config)}
    assert places >= {
        (),
        ("method",),
        ("method", "options"),
        ("dataset", "options"),
        ("encoder",),
        ("info_nce",),
        ("objective",),
        ("probe",),
        ("capacity",),
        ("training",),
        ("training", "kept_outputs"),
        ("training", "optimiser"),
        ("training", "rate_schedule"),
        ("augmentation",),
        ("augmentation", "jitter"),
        ("augmentation", "further_views", 0),
        ("augmentation", "further_views", 0, "solarise"),
    }


@pytest.mark.parametrize(("config", "path"), everywhere())
def test_a_setting_that_is_added_later_changes_no_key_at_its_default(config, path):
    assert key(grown(config, path, 3)) == key(config)


@pytest.mark.parametrize(("config", "path"), everywhere())
def test_a_setting_that_is_added_later_changes_the_key_at_another_value(config, path):
    assert key(grown(config, path, 4)) != key(config)


@pytest.mark.parametrize(("config", "path"), everywhere())
def test_a_table_that_is_added_later_changes_the_key_where_it_is_there(config, path):
    """Even with nothing in it but defaults: the table turns something on."""
    assert key(grown(config, path, None, default=None)) == key(config)
    assert key(grown(config, path, Weighted(), default=None)) != key(config)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (("encoder",), "kernels"),  # of the encoder conv_gru
        (("augmentation",), "samples"),  # of windows
        (("dataset", "options"), "images"),  # of random_images
        (("method", "options"), "deltas"),  # of mfcc
    ],
)
def test_a_later_setting_may_have_the_name_of_a_setting_of_another_kind(path, name):
    """The settings of the first keys are those of one kind of a table, not of all kinds."""
    assert key(grown(PLAIN, path, 3, called=name)) == key(PLAIN)
    assert key(grown(PLAIN, path, 4, called=name)) != key(PLAIN)


def test_an_objective_that_gains_its_first_setting_changes_no_key_at_the_default():
    """Without settings, an objective has no table."""
    bare = cell(method="supervised")
    assert bare.objective is None
    assert key(bare.model_copy(update={"objective": Weighted()})) == key(bare)
    assert key(bare.model_copy(update={"objective": Weighted(weight=0.7)})) != key(bare)


@pytest.mark.parametrize("table", ["optimiser", "rate_schedule"])
def test_the_kind_of_a_table_is_in_the_key_once_the_table_is(table):
    """Two kinds may have settings of the same names and defaults."""
    kinds = {
        "optimiser": ["adamw", "sgd", "lars"],
        "rate_schedule": ["cosine"],
    }[table]
    keys = {key(cell())}
    for kind in kinds:
        config = cell(SUITE | {"training": SUITE["training"] | {table: {"kind": kind}}})
        assert keyed(config)["training"][table] == {"kind": kind}
        keys.add(key(config))
    assert len(keys) == 1 + len(kinds)


@pytest.mark.parametrize(
    "tables",
    [
        {"optimiser": {"kind": "adam", "weight_decay": 0.0, "excludes": ["norms", "biases"]}},
        {"rate_schedule": {"kind": "constant"}},
    ],
    ids=["optimiser", "rate_schedule"],
)
def test_a_default_that_is_written_out_changes_no_key(tables):
    assert key(cell(SUITE | {"training": SUITE["training"] | tables})) == key(cell())


def test_the_kind_stays_where_a_default_table_has_one_other_setting():
    decayed = {"optimiser": {"kind": "adam", "weight_decay": 0.1}}
    config = cell(SUITE | {"training": SUITE["training"] | decayed})
    assert keyed(config)["training"]["optimiser"] == {"kind": "adam", "weight_decay": 0.1}


def test_facts_that_decide_no_number_are_in_no_key():
    config = cell()
    renamed = config.method.model_copy(update={"loss_unit": "bits"})
    assert key(config.model_copy(update={"method": renamed})) == key(config)
    named = {"method.loss_unit", "method.base_uses_labels", "dataset.in_two_classes"}
    assert named == NOT_KEYED


def test_whether_contradicting_copies_are_refused_is_in_no_key():
    """Refused, they leave no number; kept, the numbers are those of the data as they are."""
    suites = [load_suite("folder", overrides=o) for o in ([], ["dataset.in_two_classes=keep"])]
    refusing, keeping = (configs(each, methods=["gim"], device=CPU)["gim"] for each in suites)
    assert refusing.dataset != keeping.dataset
    assert key(refusing) == key(keeping)


# -- defaults of later settings --------------------------------------------------------------------

EXPLANATION = (
    "the default of a setting that was added later stands for the behaviour before that setting, "
    "and is part of no key. With another default, finished cells keep their keys and mean "
    "something else. So leave the default as it is, and add another setting; or raise "
    "RESULTS_VERSION, which runs every cell again, and write new golden files"
)


def ours(table: Mapping[str, str]) -> list[str]:
    """The names of the plug-ins that come with this distribution."""
    return sorted(n for n, to in table.items() if to.startswith(("gim_bench.", "baselines.")))


def roots() -> Iterator[tuple[str, type[Settings]]]:
    """(dotted name, class) of every table that a cell may have at its top."""
    yield "", CellConfig
    yield "info_nce", INFO_NCE.settings
    for name in ours(registry.encoders()):
        yield f"encoder:{name}", registry.encoder(name).Options
    for name in ours(registry.datasets()):
        yield f"dataset:{name}", registry.dataset(name).Options
    for name in ours(registry.methods()):
        kind = registry.method(name)
        yield f"method.options:{name}", kind.Options
        objective = kind.traits.objective
        if objective is not None and objective is not INFO_NCE:
            yield f"objective:{objective.name}", objective.settings


def classes(annotation: Any) -> Iterator[type[Settings]]:
    """The tables that a setting may hold."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        yield annotation
    for inner in get_args(annotation):
        yield from classes(inner)


def later(table: str, model: type[Settings]) -> Iterator[tuple[str, Any]]:
    """(dotted name, default) of every setting of the table that is part of a key only elsewhere.

    The default of a table is shown as keys show it: the settings within have lines of their own.
    """
    bare = table.partition(":")[0]
    for name, field in model.model_fields.items():
        path = f"{bare}.{name}".lstrip(".")
        for inner in classes(field.annotation):
            kind = inner.model_fields.get("kind")
            tags = get_args(kind.annotation) if kind is not None else ()
            yield from later(f"{path}:{tags[0]}" if tags else path, inner)
        is_first = RENAMED.get(path, name) in first(table) | {"kind"}
        if not is_first and not field.is_required():
            default = field.get_default(call_default_factory=True)
            shown = keyed(default, table=path) if isinstance(default, Settings) else default
            yield f"{table}.{name}".lstrip("."), to_jsonable_python(shown)


def later_defaults() -> dict[str, Any]:
    return dict(sorted(pair for table, model in roots() for pair in later(table, model)))


def test_the_default_of_a_later_setting_never_changes():
    today = later_defaults()
    changed = {
        name: f"{value}, and was {LATER_DEFAULTS[name]}"
        for name, value in today.items()
        if name in LATER_DEFAULTS and value != LATER_DEFAULTS[name]
    }
    assert not changed, EXPLANATION


def test_every_later_setting_is_pinned():
    unknown = {n: value for n, value in later_defaults().items() if n not in LATER_DEFAULTS}
    assert not unknown, f"add these lines to {GOLDEN / 'later_defaults.json'}: {EXPLANATION}"
    gone = LATER_DEFAULTS.keys() - later_defaults().keys()
    assert not gone, "a setting that cells have had is not taken away: rename it, by RENAMED"


# -- every setting ---------------------------------------------------------------------------------


def leaves(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """The places of all values in the settings, with those in tuples."""
    if isinstance(value, Settings):
        for name in type(value).model_fields:
            yield from leaves(getattr(value, name), (*path, name))
    elif isinstance(value, tuple):
        for place, each in enumerate(value):
            yield from leaves(each, (*path, place))
    else:
        yield path


def changed(value: Any, path: Path_) -> Any:
    """The settings with another value at `path`."""
    if path:
        place, rest = path[0], path[1:]
        if isinstance(value, tuple):
            return (*value[:place], changed(value[place], rest), *value[place + 1 :])
        return value.model_copy(update={place: changed(getattr(value, place), rest)})
    if isinstance(value, bool):
        return not value
    return f"{value}x" if isinstance(value, (str, Enum)) or value is None else value + 1


@pytest.mark.parametrize(
    ("config", "path"),
    [
        pytest.param(config, path, id=".".join(map(str, (name, *path))))
        for name, config in CELLS.items()
        for path in leaves(config)
        if ".".join(map(str, path)) not in NOT_KEYED | {"objective"}  # a table that is not there
    ],
)
def test_the_key_changes_with_every_setting(config, path):
    assert key(changed(config, path)) != key(config)


@pytest.mark.parametrize(
    ("table", "setting"),
    [("training", {"kept_outputs": {}}), ("augmentation", {"blur": {}}), ("capacity", {})],
    ids=["kept_outputs", "blur", "capacity"],
)
def test_the_key_changes_with_a_table_of_defaults(table, setting):
    found = cell(SUITE | {table: SUITE.get(table, {}) | setting}, method="cpc")
    assert key(found) != key(PLAIN)


def test_the_key_changes_with_a_view_that_is_like_the_first():
    augmentation = SUITE["augmentation"] | {"further_views": [{}]}
    assert key(cell(SUITE | {"augmentation": augmentation})) != key(cell())


def test_the_key_changes_with_data_seed_and_results_version(monkeypatch):
    config = cell()
    keys = {
        config.key(data_sha256="0" * 64, seed=0),
        config.key(data_sha256="1" * 64, seed=0),
        config.key(data_sha256="0" * 64, seed=1),
    }
    monkeypatch.setattr(schema, "RESULTS_VERSION", schema.RESULTS_VERSION + 1)
    keys.add(config.key(data_sha256="0" * 64, seed=0))
    assert len(keys) == 4


# -- nothing else ----------------------------------------------------------------------------------


def test_the_resolved_configuration_is_fully_explicit():
    """A record spells defaults out, whether its key has them or not."""
    spelled_out = cell().as_dict()
    assert spelled_out["info_nce"] == {
        "prediction_steps": 5,
        "skip_rows": 1,
        "negatives": 16,
        "anchor_rows": None,
        "negatives_within": None,
        "negatives_from": "all",
        "targets_in_window": False,
    }
    assert spelled_out["training"]["optimiser"] == AdamSettings().model_dump(mode="json")
    assert cell(SUITE | {"capacity": {}}).as_dict()["capacity"] == CapacitySettings().entries()


def shuffled(table: Any, draw: random.Random) -> Any:
    if not isinstance(table, dict):
        return table
    names = draw.sample(sorted(table), len(table))
    return {name: shuffled(table[name], draw) for name in names}


@given(seed=st.integers(0, 2**30))
@settings(max_examples=10)
def test_the_key_does_not_depend_on_the_order_in_which_settings_are_written(seed):
    assert key(cell(shuffled(SUITE, random.Random(seed)))) == key(cell())


def test_the_key_does_not_depend_on_how_a_number_is_written():
    whole, point = ({**SUITE["training"], "learning_rate": rate} for rate in (1, 1.0))
    assert key(cell(SUITE | {"training": whole})) == key(cell(SUITE | {"training": point}))


def test_the_key_is_the_same_in_another_process():
    """Python salts its hashes per process; keys must not notice."""
    program = (
        "import json, sys, torch\n"
        "from gim_bench.cells.resolve import configs\n"
        "from gim_bench.settings.schema import Suite\n"
        "from gim_bench.settings.suites import parse\n"
        "suite = parse(Suite, json.load(sys.stdin), origin='test')\n"
        "config = configs(suite, methods=['gim'], device=torch.device('cpu'))['gim']\n"
        "print(config.key(data_sha256='0' * 64, seed=0))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            input=json.dumps(SUITE),
            env=os.environ | {"PYTHONHASHSEED": salt, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for salt in ("1", "2")
    }
    assert found == {key(cell())}
