"""Suites are read from TOML files, laid over each other, and changed by `--set`."""

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gim_bench.errors import ConfigError
from gim_bench.settings.augmentations import WindowSettings
from gim_bench.settings.optimisers import AdamSettings, ConstantRate, CosineRate, SGDSettings
from gim_bench.settings.schema import CellConfig, Deviation, Schedule
from gim_bench.settings.suites import load_suite, shipped_suites
from tests.settings.tables import SPEECH, SUITE, load, refused, write

# -- one file ------------------------------------------------------------------------------------


def test_a_suite_is_read_from_its_file(tmp_path):
    suite = load(tmp_path)
    assert suite.methods == ("gim", "random_init")
    assert suite.augmentation.crop == 32
    assert suite.training.learning_rate == 2e-3


def test_a_suite_knows_the_options_that_ask_for_it(tmp_path):
    asked = load_suite("smoke", overrides=["training.epochs=2", 'method.gim.like="my gim"'])
    said = "--suite smoke --set training.epochs=2 --set 'method.gim.like=\"my gim\"'"
    assert asked.options == said
    assert asked.asked_by("--runs-dir", "mine").options == f"{said} --runs-dir mine"
    assert asked.options == said


def test_what_a_suite_leaves_out_is_the_paper_s_setting(tmp_path):
    suite = load(tmp_path)
    assert suite.probe.validation_fraction == 0.2
    assert suite.augmentation.flip
    assert suite.augmentation.grayscale
    assert suite.training.optimiser == AdamSettings(weight_decay=0.0)
    assert suite.training.rate_schedule == ConstantRate()


def test_what_a_suite_of_speech_leaves_out_is_the_paper_s_setting_too(tmp_path):
    suite = load(tmp_path, suite=SPEECH)
    assert suite.augmentation == WindowSettings(kind="window", samples=20_480)


@pytest.mark.parametrize("suite", [SUITE, SPEECH], ids=["images", "speech"])
def test_tables_of_plug_ins_are_held_as_the_file_has_them(suite, tmp_path):
    """Whoever knows the plug-in checks them."""
    info_nce = {"negatives": 4, "any": [1, {"thing": True}]}
    objective = {"barlow_twins": {"weight": 0.005}}
    found = load(tmp_path, suite=suite | {"info_nce": info_nce, "objective": objective})
    assert found.dataset.name == suite["dataset"]["name"]
    assert {"name": found.dataset.name, **found.dataset.options} == suite["dataset"]
    assert {"kind": found.encoder.kind, **found.encoder.options} == suite["encoder"]
    assert (found.info_nce, found.objective) == (info_nce, objective)


def test_settings_cannot_be_written_to(tmp_path):
    with pytest.raises(ValidationError, match="frozen"):
        load(tmp_path).training.epochs = 2


@pytest.mark.parametrize("name", sorted(shipped_suites()))
def test_a_shipped_suite_can_be_read_and_is_named_like_its_file(name):
    assert load_suite(name).name == name


@pytest.mark.parametrize("name", shipped_suites())
def test_a_protocol_names_what_its_suite_does_beside_training_and_probing(name):
    """As rates of the rows' own, a shorter autoregressor, or a search for the largest batch."""
    suite = load_suite(name)
    trainings = [row.get("training", {}) for row in suite.method.values()]
    if suite.tuned and any("learning_rate" in training for training in trainings):
        assert "learning rate" in suite.protocol
    if suite.capacity is not None:
        assert "largest batch" in suite.protocol
    if "autoregressor_layers" in suite.method.get("cpc", {}):
        assert "cpc has a PixelCNN of one layer, not four" in " ".join(suite.protocol.split())


def test_a_suite_may_name_the_tables_of_several_papers(tmp_path):
    published = load(tmp_path, 'published=["loewe2019/table3", "other/table1"]').published
    assert published == ("loewe2019/table3", "other/table1")
    assert load(tmp_path).published == ()


DEVIATION = {"about": "batch", "paper": "128", "released": "32", "ours": "64"}


def test_deviations_are_prose_that_belongs_to_no_cell(tmp_path):
    """A deviation in other words must not run every cell of the suite again."""
    suite = load(tmp_path, suite=SUITE | {"deviations": [DEVIATION]})
    assert suite.deviations == (Deviation(**DEVIATION),)
    assert "deviations" not in CellConfig.model_fields


def test_a_deviation_says_what_paper_released_code_and_suite_do(tmp_path):
    """A list of sentences, as files had before, is answered with what to write."""
    with pytest.raises(ConfigError, match=r"deviations.0: 'Halved.' is a sentence: write a table"):
        load(tmp_path, 'deviations=["Halved."]')
    for name in DEVIATION:
        part = {key: value for key, value in DEVIATION.items() if key != name}
        with pytest.raises(ConfigError, match=rf"'deviations.0.{name}' is missing"):
            load(tmp_path, suite=SUITE | {"deviations": [part]})


def test_the_optimiser_of_a_suite_is_of_the_kind_that_its_table_names(tmp_path):
    tables = {"optimiser": {"kind": "sgd", "nesterov": True}, "rate_schedule": {"kind": "cosine"}}
    training = load(tmp_path, suite=SUITE | {"training": SUITE["training"] | tables}).training
    assert training.optimiser == SGDSettings(momentum=0.9, nesterov=True)
    assert training.rate_schedule == CosineRate(warmup_epochs=0.0, final_share=0.0)


# -- values laid over the file ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "section", "setting", "expected"),
    [
        ("training.epochs=10", "training", "epochs", 10),
        ("training.learning_rate=1e-4", "training", "learning_rate", 1e-4),
        ("training.learning_rate=1", "training", "learning_rate", 1.0),
        ("training.schedule=joint", "training", "schedule", Schedule.JOINT),
        ('training.schedule="joint"', "training", "schedule", Schedule.JOINT),
        ("augmentation.flip=false", "augmentation", "flip", False),
        ("augmentation.mean=[0.1]", "augmentation", "mean", (0.1,)),
        ("probe.learning_rates=[0.1]", "probe", "learning_rates", (0.1,)),
        ("probe.fitted_steps=8", "probe", "fitted_steps", 8),
        (" training . epochs = 10", "training", "epochs", 10),
    ],
)
def test_a_set_value_is_laid_over_the_file(tmp_path, override, section, setting, expected):
    found = getattr(getattr(load(tmp_path, override), section), setting)
    assert found == expected
    assert type(found) is type(expected)


def test_of_two_set_values_the_later_one_counts(tmp_path):
    assert load(tmp_path, "training.epochs=10", "training.epochs=3").training.epochs == 3


def test_a_set_value_reaches_top_level_and_method_tables(tmp_path):
    suite = load(tmp_path, 'methods=["cpc"]', "seeds=4", "method.cpc.autoregressor=none")
    assert (suite.methods, suite.seeds) == (("cpc",), 4)
    assert suite.method == {"cpc": {"autoregressor": "none"}}


def test_a_set_value_reaches_the_tables_of_plug_ins(tmp_path):
    overrides = ("dataset.stripes=6", "encoder.blocks=[3, 4, 6]", "info_nce.negatives=8")
    suite = load(tmp_path, *overrides, "objective.barlow_twins.weight=0.5")
    assert suite.dataset.options == {"size": 36, "stripes": 6}
    assert suite.encoder.options["blocks"] == [3, 4, 6]
    assert suite.info_nce == {"negatives": 8}
    assert suite.objective == {"barlow_twins": {"weight": 0.5}}


def test_a_shipped_suite_can_be_overridden():
    name = next(iter(shipped_suites()))
    assert load_suite(name, overrides=["training.epochs=3"]).training.epochs == 3


@given(value=st.one_of(st.integers(1, 2**31), st.integers(2**40, 2**62)))
@settings(max_examples=20)
def test_any_whole_number_survives_the_way_through_set(value, tmp_path_factory):
    suite = load(tmp_path_factory.mktemp("suite"), f"training.epochs={value}")
    assert suite.training.epochs == value


def test_a_changed_suite_is_not_set_beside_published_numbers():
    """A changed suite is another experiment than the paper's."""
    assert load_suite("stl10").published
    assert load_suite("stl10", overrides=["training.epochs=3"]).published == ()


# -- former names ----------------------------------------------------------------------------------

KEPT = "training.kept_outputs"


def test_a_setting_may_be_set_by_its_former_name(tmp_path):
    """`training.kept_outputs.epochs` was called `views`."""
    former, now = (load(tmp_path, f"{KEPT}.{name}=2") for name in ("views", "epochs"))
    assert former.model_dump() == now.model_dump()
    assert load(tmp_path, f"{KEPT}.views=2").training.kept_outputs.epochs == 2


@pytest.mark.parametrize(("first", "second"), [("views", "epochs"), ("epochs", "views")])
def test_of_a_setting_s_two_names_the_one_that_is_set_later_counts(first, second, tmp_path):
    suite = load(tmp_path, f"{KEPT}.{first}=2", f"{KEPT}.{second}=3")
    assert suite.training.kept_outputs.epochs == 3


def test_a_former_name_in_a_file_is_overridden_by_today_s_name_above(tmp_path):
    write(tmp_path, suite=SUITE | {"training": SUITE["training"] | {"kept_outputs": {"views": 2}}})
    path = tmp_path / "upon.toml"
    tables = {"training": {"kept_outputs": {"epochs": 5}}}
    path.write_text(tomli_w.dumps({"extends": "mine.toml"} | UPON | tables))
    assert load_suite(str(path)).training.kept_outputs.epochs == 5


def test_a_row_may_use_a_former_name_too(tmp_path):
    suite = load(tmp_path, f"method.gim.{KEPT}.views=2")
    assert suite.method["gim"] == {"training": {"kept_outputs": {"epochs": 2}}}


# -- suites upon suites --------------------------------------------------------------------------

UPON = {"name": "upon", "summary": "a suite upon another"}


def upon(folder, *, name="upon", extends="mine.toml", **tables):
    """The path of a suite file that extends another, which is SUITE in "mine.toml"."""
    write(folder)
    path = folder / f"{name}.toml"
    path.write_text(tomli_w.dumps({"extends": extends} | UPON | {"name": name} | tables))
    return str(path)


def test_a_suite_that_extends_another_differs_in_what_it_says_alone(tmp_path):
    path = upon(tmp_path, training={"epochs": 9}, methods=["cpc"], method={"cpc": {"x": 1}})
    below, found = load(tmp_path).model_dump(), load_suite(path).model_dump()
    assert {name for name in below if below[name] != found[name]} == {
        "name", "summary", "methods", "training", "method",
    }  # fmt: skip
    assert found["training"] == below["training"] | {"epochs": 9}
    assert (found["name"], found["methods"]) == ("upon", ("cpc",))


def test_a_chain_of_suites_is_laid_over_each_other_from_below(tmp_path):
    upon(tmp_path, name="first", training={"epochs": 9, "batch_size": 7}, seeds=2)
    path = upon(tmp_path, name="second", extends="first.toml", training={"epochs": 11})
    found = load_suite(path, overrides=["seeds=3"])
    assert (found.training.epochs, found.training.batch_size, found.seeds) == (11, 7, 3)


def test_a_suite_may_change_the_kind_of_a_table_of_the_suite_below(tmp_path):
    """Settings of the kind below are not handed down: the other kind has none of them."""
    path = upon(
        tmp_path,
        dataset={"name": "espeak"},
        encoder={"kind": "conv_gru", "width": 16},
        augmentation={"kind": "window", "samples": 3200},
    )
    found = load_suite(path)
    assert found.dataset.options == {}
    assert found.encoder.options == {"width": 16}
    assert found.augmentation == WindowSettings(kind="window", samples=3200)


def test_a_suite_that_names_the_kind_of_the_suite_below_keeps_the_other_settings(tmp_path):
    found = load_suite(upon(tmp_path, encoder={"kind": "resnet", "width": 16}))
    assert {"kind": found.encoder.kind} | found.encoder.options == SUITE["encoder"] | {"width": 16}


def test_a_suite_on_the_data_set_of_the_suite_below_keeps_its_other_options(tmp_path):
    named = load_suite(upon(tmp_path, dataset={"name": "photos", "stripes": 4}))
    assert named.dataset.options == {"size": 36, "stripes": 4}
    assert load_suite(upon(tmp_path, dataset={"stripes": 4})).dataset == named.dataset


def test_tables_within_tables_change_their_kind_too(tmp_path):
    sgd = {"kind": "sgd", "momentum": 0.5}
    upon(tmp_path, name="first", training={"optimiser": sgd})
    kept = {"optimiser": {"nesterov": True}}
    path = upon(tmp_path, name="second", extends="first.toml", training=kept)
    found = SGDSettings(momentum=0.5, nesterov=True)
    assert load_suite(path).training.optimiser == found
    changed = {"optimiser": {"kind": "adam"}}
    path = upon(tmp_path, name="third", extends="first.toml", training=changed)
    assert load_suite(path).training.optimiser == AdamSettings()


def test_what_a_suite_extends_is_looked_for_beside_it_or_among_the_shipped(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path)
    monkeypatch.chdir(tmp_path / "elsewhere")
    path = upon(tmp_path / "folder", extends="../mine.toml")
    assert load_suite(path).dataset == load(tmp_path).dataset
    shipped = load_suite(upon(tmp_path, extends="memory"))
    assert shipped.method == load_suite("memory").method


def test_published_numbers_are_no_matter_of_a_suite_upon_theirs_unless_it_says_so(tmp_path):
    assert load_suite(upon(tmp_path, extends="memory")).published == ()
    claimed = upon(tmp_path, name="claimed", extends="memory", published=["loewe2019/table2"])
    assert load_suite(claimed).published == ("loewe2019/table2",)
    assert load_suite(upon(tmp_path, extends="claimed.toml")).published == ()


@pytest.mark.parametrize("left_out", ["name", "summary"])
def test_a_suite_upon_another_has_a_name_and_a_summary_of_its_own(left_out, tmp_path):
    write(tmp_path)
    own = {key: value for key, value in UPON.items() if key != left_out}
    path = tmp_path / "upon.toml"
    path.write_text(tomli_w.dumps({"extends": "mine.toml"} | own))
    message = refused(str(path))
    assert message == f"upon.toml extends mine.toml: it needs a {left_out} of its own"


def test_two_suites_of_a_chain_do_not_share_a_name(tmp_path):
    """Their records would lie in one folder."""
    upon(tmp_path, name="between")
    path = tmp_path / "top.toml"
    own = {"extends": "between.toml", "name": SUITE["name"], "summary": "the third"}
    path.write_text(tomli_w.dumps(own))
    assert refused(str(path)).startswith("mine.toml is extended under its own name 'mine'")


def test_a_circle_of_suites_is_named(tmp_path):
    upon(tmp_path, name="b", extends="a.toml")
    assert "(a.toml over b.toml over a.toml)" in refused(upon(tmp_path, name="a", extends="b.toml"))
    roundabout = f"../{tmp_path.name}/c.toml"
    assert "(c.toml over c.toml)" in refused(upon(tmp_path, name="c", extends=roundabout))


def test_what_a_suite_cannot_extend_is_named(tmp_path):
    missing = refused(upon(tmp_path, extends="nowhere.toml"))
    assert missing.startswith("no suite file 'nowhere.toml' (upon.toml: extends)")
    unknown = refused(upon(tmp_path, extends="memry"))
    assert unknown.startswith("no suite 'memry' (upon.toml: extends). Did you mean 'memory'?")
    assert refused(upon(tmp_path, extends=["memory"])).startswith("upon.toml: extends = ['memory']")


def test_a_mistake_in_a_chain_is_blamed_on_all_of_its_files(tmp_path):
    assert refused(upon(tmp_path, training={"epochs": -1})).startswith(
        "upon.toml over mine.toml: training.epochs = -1"
    )


def test_memory_128_is_the_memory_suite_with_as_many_steps_of_more_images():
    below, found = (load_suite(name).model_dump() for name in ("memory", "memory-128"))
    assert found["training"] == below["training"] | {"batch_size": 128}
    steps = [s["dataset"]["images"] / s["training"]["batch_size"] for s in (below, found)]
    assert steps == [4, 4]
    shared = set(below) - {"name", "summary", "protocol", "published", "dataset", "training"}
    assert all(found[name] == below[name] for name in shared)


@pytest.mark.parametrize("batch", [16, 32, 128])
def test_table_2_is_the_memory_suite_in_fp32_at_three_batches(batch):
    name = "memory-fp32" if batch == 16 else f"memory-fp32-{batch}"
    below, found = (load_suite(each).model_dump() for each in ("memory", name))
    assert found["training"] == below["training"] | {"batch_size": batch, "precision": "fp32"}
    assert found["dataset"]["images"] / batch == 4
    assert found["published"] == ("loewe2019/table2",)
    assert below["published"] == ()
    own = {"name", "summary", "protocol", "published", "deviations", "dataset", "training"}
    assert all(found[each] == below[each] for each in set(below) - own)


# -- files that cannot be read ---------------------------------------------------------------------


def test_an_unknown_suite_is_answered_with_the_shipped_ones():
    message = refused("quikstart")
    assert message.startswith("no suite 'quikstart' (--suite). Did you mean 'quickstart'?")
    assert all(name in message for name in shipped_suites())


@pytest.mark.parametrize("name", ["nowhere.toml", "folder/nowhere.toml", "./nowhere"])
def test_a_suite_file_that_is_not_there_is_named(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refused(name).startswith(f"no suite file {name!r}")


@pytest.mark.parametrize(
    "text", ["name = ", "[training\nepochs = 1", "epochs = 1\nepochs = 2", "a = 'never closed"]
)
def test_broken_toml_is_one_line_that_names_file_and_place(text, tmp_path):
    path = write(tmp_path, text)
    message = refused(path)
    assert path in message
    assert "line" in message or "end of document" in message


def test_a_file_that_is_no_text_is_refused_in_one_line(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"cannot read the suite .*mine\.toml"):
        load_suite(str(path))


# case 7
def test_a_suite_saved_with_a_byte_order_mark_loads_as_without(tmp_path):
    text = 'extends = "smoke"\r\nname = "mine"\r\nsummary = "größer"\r\n'
    (tmp_path / "marked.toml").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (tmp_path / "plain.toml").write_bytes(text.encode())
    marked, plain = (load_suite(str(tmp_path / f"{n}.toml")) for n in ("marked", "plain"))
    assert marked.model_dump() == plain.model_dump()
    assert plain.summary == "größer"


def test_the_line_of_a_suite_that_is_not_utf_8_is_named(tmp_path):
    (tmp_path / "mine.toml").write_bytes('name = "mine"\nsummary = "größer"\n'.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"mine\.toml \(line 2: byte 0xf6 is not UTF-8"):
        load_suite(str(tmp_path / "mine.toml"))


def test_a_folder_is_no_suite_file(tmp_path):
    with pytest.raises(ConfigError, match="no suite file"):
        load_suite(f"{tmp_path}/")


def test_cuda_graphs_without_compiled_layers_get_one_line():
    with pytest.raises(ConfigError, match=r"training: cuda_graphs = true needs compile = true"):
        load_suite("stl10", overrides=["training.cuda_graphs=true"])
    both = ["training.cuda_graphs=true", "training.compile=true"]
    assert load_suite("stl10", overrides=both).training.cuda_graphs
