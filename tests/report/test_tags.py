"""Protocol tags: a number of ours stands beside a published one only where all tags fit."""

import tomllib
from pathlib import Path

import pytest
import torch

from gim_bench.cells.defaults import settings_by_name
from gim_bench.cells.resolve import configs
from gim_bench.errors import ConfigError
from gim_bench.records.protocols import READ, READ_UNDER
from gim_bench.report import published
from gim_bench.report.published import load
from gim_bench.report.tags import DIMENSIONS, OFF, UNKNOWN, read_tags, settings_of
from gim_bench.settings.protocols import protocols_of, resolved
from gim_bench.settings.suites import load_suite
from tests.report.cells import cell, config, provenance
from tests.report.test_tables import markdown, table

FOLDER = Path(__file__).parents[2] / "results" / "published"
TITLE = "Ledger of published numbers"
FILES = {path.stem: tomllib.loads(path.read_text("utf-8")) for path in FOLDER.glob("*.toml")}
WORDS = {path.stem: tomllib.loads(path.read_text("utf-8")) for path in FOLDER.glob("tags/*.toml")}
TABLES = {
    f"{name}/{key}": entry
    for name, content in FILES.items()
    for key, entry in content.items()
    if isinstance(entry, dict)
}
# What a record says of its data, in Bench.counts.
SIZES = ("data.classes.class", "data.examples.train", "data.examples.test")
OF_HIDDEN_200 = ("reads", "probe.kind", "probe.units", "probe.dropout")
OTHERS = {"hjelm2019", "nokland2019", "siddiqui2023", "illing2021", "wang2021", "chen2025"}


def numbers(reference):
    (found,) = load([reference]).values()
    return found


def vgg8b(row="supervised", **tables):
    """A configuration with the protocol of PredSim's paper."""
    crop = {"kind": "crop", "crop": 96, "flip": False, "grayscale": False}
    own = config(row) | {
        "dataset": {"name": "stl10"},
        "encoder": {"kind": "vgg8b"},
        "augmentation": {**crop, "mean": [0.4, 0.4, 0.4], "std": [0.3, 0.3, 0.3]},
    }
    for name, changes in tables.items():
        own[name] = {**own[name], **changes}
    return own


def own_heads(settings):
    """The page of a suite that sets a supervised network's own head beside PredSim's backprop."""
    records = [
        cell("supervised", seed=s, metrics={"accuracy/own_head": 66.9 + s / 50}, config=settings)
        for s in (0, 1)
    ]
    return markdown(records, published=("nokland2019/stl10",))


def verdicts(page):
    return {row[0]: row[-1] for row in table(page, TITLE)[1:]}


# -- the files -------------------------------------------------------------------------------------


def test_the_papers_of_the_family_have_files():
    assert {"loewe2019", "oord2018", "journe2023", *OTHERS} <= FILES.keys()


@pytest.mark.parametrize("name", FILES)
def test_every_file_states_its_source(name):
    content = FILES[name]
    assert len(content["citation"]) > 30
    assert content["short"]
    for reference, entry in TABLES.items():
        if reference.startswith(f"{name}/"):
            assert entry["place"]
            assert "page" in entry or content["read_in"]


def test_every_number_is_a_percentage_between_0_and_100_or_a_positive_memory():
    for reference in TABLES:
        for (_, metric), number in numbers(reference).items():
            assert 0 < number.value < (1e12 if metric.startswith("memory/") else 100)


def test_a_suite_can_name_tables_of_all_papers_and_several_of_one():
    first = {name.partition("/")[0]: name for name in reversed(TABLES)}
    tables = [name for name in TABLES if name.startswith("loewe2019/") or name in first.values()]
    assert list(load(tables)) == [FILES[name]["short"] for name in first][::-1]


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_every_number_of_a_paper_that_was_added_has_all_tags(name):
    for reference in TABLES:
        if reference.startswith(f"{name}/"):
            for number in numbers(reference).values():
                assert tuple(tag.dimension for tag in number.tags) == DIMENSIONS


def test_every_required_setting_is_a_setting_of_the_package():
    """A misspelt setting would let no record fit."""
    views = {"resized": {}, "jitter": {}, "blur": {}}
    known = {"encoder.kind", "probe.kind", *SIZES}
    known |= settings_by_name({"dataset": {"name": "image_folder"}}).keys()
    for encoder in ("vgg8b", "folded_convnet", "batch_norm_resnet"):
        method = {"name": "x", "like": "blockwise_barlow_twins", "trains_on": "none"}
        settings = vgg8b(encoder={"kind": encoder}) | {"method": method}
        known |= settings_by_name(settings).keys()
        settings["augmentation"] |= views
        known |= settings_by_name(settings).keys()
    required = {
        name
        for words in WORDS.values()
        for word in words.values()
        for name in word.get("requires", {})
    }
    assert required - known == {READ_UNDER, *(f"read.{name}" for name in OF_HIDDEN_200)}


def test_an_error_is_read_as_an_accuracy():
    number = numbers("nokland2019/stl10")["predsim_cutout", "accuracy"]
    assert number.value == pytest.approx(80.75)
    assert number.rounding == pytest.approx(0.005)


def test_predsim_of_the_gim_paper_is_predsim_with_cutout_of_its_own_paper():
    own = numbers("nokland2019/stl10")["predsim_cutout", "accuracy"]
    quoted = numbers("loewe2019/table1")["predsim", "accuracy"]
    assert abs(own.value - quoted.value) <= own.rounding + quoted.rounding + 1e-9
    assert own.tags == quoted.tags


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"encodr": "vgg8b"}, "no tag 'encodr'.*Did you mean 'encoder'"),
        (dict.fromkeys(DIMENSIONS, "x"), r"no encoder 'x' \(A paper, gim\).*vgg8b"),
        ({"encoder": "vgg8b"}, "A paper, gim has no tag labels, head, data, augmentation"),
    ],
)
def test_a_tag_that_is_not_known_or_left_out_is_answered(words, says):
    with pytest.raises(ConfigError, match=says):
        read_tags(words, folder=FOLDER / "tags", where="A paper, gim")


# -- tags that fit, and tags that do not -----------------------------------------------------------


def test_a_record_with_the_papers_protocol_is_compared():
    page = own_heads(vgg8b())
    assert verdicts(page)["supervised"] == "equivalent"
    assert "- protocol of supervised: encoder: VGG8b with 11.5 million parameters; labels: " in page
    assert "Read in: the project's notes" in page


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (vgg8b(encoder={"width": 16}), "encoder: encoder.width is 16, where STL-10 errors"),
        (vgg8b(method={"trains_on": "unlabelled"}), "labels: method.trains_on is unlabelled"),
        (vgg8b(dataset={"name": "photos"}), "data: dataset.name is photos, where STL-10 errors"),
        (vgg8b(augmentation={"flip": True}), "augmentation: augmentation.flip is True, where"),
        (vgg8b(augmentation={"jitter": {}}), "augmentation: augmentation.jitter is absent, where"),
    ],
    ids=["encoder", "labels", "data", "augmentation", "jitter"],
)
def test_a_record_with_another_protocol_is_not_comparable_and_the_tag_is_named(settings, reason):
    page = own_heads(settings)
    assert verdicts(page)["supervised"] == "not comparable"
    assert f"- not comparable, supervised: {reason}" in page


def test_every_tag_that_differs_is_named():
    page = own_heads(vgg8b(encoder={"width": 16}, dataset={"name": "photos"}))
    (line,) = (
        line for line in page.splitlines() if line.startswith("- not comparable, supervised: ")
    )
    assert "encoder: encoder.width is 16" in line
    assert "; data: dataset.name is photos" in line


def test_a_linear_probe_is_not_set_beside_an_output_layer():
    """PredSim's 80.8 in the GIM paper is the accuracy of an output layer."""
    cutout = vgg8b("predsim", augmentation={"cutout": 48}, method={"trains_on": "train"})
    probe = {"kind": "adam", "standardise": False}
    records = [cell("predsim", metrics={"accuracy": 80.8}, config=cutout | {"probe": probe})]
    page = markdown(records, published=("loewe2019/table1",))
    reason = "head: Table 1 has an output layer that was trained with the encoder"
    assert verdicts(page)["predsim"] == "not comparable"
    assert f"- not comparable, predsim: {reason}" in page
    assert f"- not comparable, predsim 80.8: {reason}" in page
    heading, row = table(page, "Accuracy: %")
    assert "80.8" not in row[heading.index("linear probe") + 1 :]


def test_an_unknown_part_of_a_protocol_fits_no_record():
    records = [cell("softhebb", metrics={"accuracy": 76.2}, config=vgg8b("gim"))]
    page = markdown(records, published=("journe2023/stl10",))
    assert verdicts(page) == {"softhebb": "not comparable"}
    assert "encoder: not known of abstract, STL-10; " in page


def test_a_number_without_tags_is_compared_as_before():
    known = {**vgg8b("gim"), "probe": {"kind": "adam", "standardise": False}}
    records = [cell("gim", seed=s, metrics={"accuracy": 81.9}, config=known) for s in (0, 1)]
    page = markdown(records, published=("loewe2019/table1",))
    assert verdicts(page)["gim"] == "equivalent"
    assert "protocol of" not in page
    assert "elsewhere" not in page


def test_a_transform_that_is_switched_off_is_written_as_none():
    (tag,) = (
        tag
        for tag in numbers("nokland2019/stl10")["predsim", "accuracy"].tags
        if tag.dimension == "augmentation"
    )
    assert tag.requires["augmentation.resized"] == OFF
    settings = dict(tag.requires) | {"augmentation.resized": None, "augmentation.jitter": None}
    assert tag.misfit(settings, table="x") == ""
    assert tag.misfit(settings | {"augmentation.cutout": 48}, table="x")


# Transforms that BYOL's words alone have.
ADDED = [{"jitter": {}}, {"gray": 0.2}, {"blur": {}}, {"solarise": {}}, {"resized": {}}]


@pytest.mark.parametrize("added", ADDED, ids=lambda added: next(iter(added)))
@pytest.mark.parametrize("word", sorted(WORDS["augmentation"].keys() - {"byol_224"}))
def test_a_transform_more_is_another_augmentation(word, added):
    words = dict.fromkeys(DIMENSIONS, UNKNOWN) | {"augmentation": word}
    tag = read_tags(words, folder=FOLDER / "tags", where="x")[-1]
    plain = {
        name.removeprefix("augmentation."): None if needed == OFF else needed
        for name, needed in tag.requires.items()
    }
    same, other = (
        settings_of(cell(metrics={}, config=vgg8b(augmentation=plain | more)))
        for more in ({}, added)
    )
    assert tag.misfit(same, table="x") == ""
    assert tag.misfit(other, table="x").startswith(
        f"augmentation: augmentation.{next(iter(added))}"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"solarise": {"threshold": 0.5, "probability": 0.2}},
        {"cutout": 48},
        {"jitter.hue": 0.2},
        {"blur.probability": 0.5},
        {"further_views": []},
    ],
    ids=lambda change: next(iter(change)),
)
def test_views_that_are_not_byols_are_another_augmentation(change):
    words = dict.fromkeys(DIMENSIONS, UNKNOWN) | {"augmentation": "byol_224"}
    tag = read_tags(words, folder=FOLDER / "tags", where="x")[-1]
    same = rows_of("imagenet-blockwise")["barlow_twins"]
    changed = {f"augmentation.{name}": value for name, value in change.items()}
    assert tag.misfit(same, table="x") == ""
    assert tag.misfit(dict(same) | changed, table="x").startswith(
        f"augmentation: {next(iter(changed))}"
    )


# -- suites of rows as published -------------------------------------------------------------------

IMAGENET = {"classes": {"class": 1000}, "examples": {"train": 1_281_167, "test": 50_000}}
# The dimensions in which the rows of the shipped suites are not as published. A hidden layer is the
# protocol of a command, an output layer is in no protocol.
DEVIATING = {
    "stl10-published": {
        ("hjelm2019", "deep_infomax"): {"head"},
        ("loewe2019", "deep_infomax"): {"head"},
        ("loewe2019", "predsim"): {"head", "augmentation"},
        ("nokland2019", "predsim"): {"head"},
        ("nokland2019", "pred"): {"head"},
        ("nokland2019", "sim"): {"head"},
        ("nokland2019", "predsim_cutout"): {"head"},
        ("nokland2019", "supervised"): {"encoder", "augmentation"},
        ("illing2021", "clapp"): {"encoder"},
        ("clapp_reproduced", "clapp"): {"encoder", "head", "augmentation"},
        ("clapp_reproduced", "hinge_cpc"): {"encoder", "head", "augmentation"},
        ("clapp_reproduced", "random_init"): {"encoder", "head", "augmentation"},
    },
    "imagenet-blockwise": {},
}


def rows_of(name):
    """Settings of every row of a suite, with the sizes of ImageNet."""
    facts = {**provenance(), "data_counts": IMAGENET}
    resolved = configs(load_suite(name), methods=[], device=torch.device("cpu"))
    return {
        row: settings_of(cell(row, metrics={}, config=own.as_dict(), provenance=facts))
        for row, own in resolved.items()
    }


@pytest.mark.parametrize("name", DEVIATING)
def test_rows_as_published_have_the_protocols_of_their_numbers_but_for_what_is_declared(name):
    rows, found = rows_of(name), {}
    for reference in load_suite(name).published:
        for (row, _), number in numbers(reference).items():
            tags = number.tags if row in rows else ()
            if off := {tag.dimension for tag in tags if tag.misfit(rows[row], table="x")}:
                found[reference.partition("/")[0], row] = off
    assert found == DEVIATING[name]


def test_deep_infomaxs_classifier_is_fitted_beyond_the_last_fall_of_its_published_rate():
    """The released rate falls after epochs 50 and 100, of 5,000 labels in batches of 64."""
    suite = load_suite("stl10-published")
    settings = protocols_of(suite, ["deep_infomax"])["deep_infomax"]
    probe = resolved("deep_infomax", settings, own=suite.probe).probe
    assert probe.kind == "hidden_layer", "steps are a setting of Adam's linear probe, too"
    steps_per_epoch = -(-5000 // probe.batch_size)  # the last batch of an epoch is smaller
    assert (probe.batch_size, round(probe.steps / steps_per_epoch)) == (64, 148)


def test_a_narrower_hidden_layer_is_not_deep_infomaxs_classifier():
    """Protocols are in no key: `--set protocols.deep_infomax.probe.units=10` is read as well."""
    suite = load_suite("stl10-published")
    protocol = protocols_of(suite, ["deep_infomax"])["deep_infomax"]
    read = resolved("deep_infomax", protocol, own=suite.probe).as_dict()
    narrow = {**read, "probe": read["probe"] | {"units": 10}}
    (tag,) = numbers("hjelm2019/stl10")["deep_infomax", "accuracy"].tags[2:3]
    reasons = [
        tag.misfit(
            settings_of(
                cell(metrics={}, config=vgg8b() | {READ_UNDER: "deep_infomax", READ: settings})
            ),
            table="x",
        )
        for settings in (read, narrow)
    ]
    assert reasons == ["", f"head: read.probe.units is 10, where x has {tag.means}"]


def test_crops_of_large_images_are_not_deep_infomaxs_whole_images():
    """Crops of 64 pixels are 44 % of an image of STL-10."""
    row = rows_of("stl10-published")["deep_infomax"]
    (tag,) = numbers("hjelm2019/stl10")["deep_infomax", "accuracy"].tags[-1:]
    assert tag.misfit(row, table="x") == ""
    assert tag.misfit({**row, "augmentation.resize": None}, table="x")


@pytest.mark.parametrize("name", DEVIATING)
def test_every_number_of_the_methods_that_a_suite_is_named_for_has_a_row(name):
    """Rows of GIM's own table that stl10 has are left to stl10."""
    asked = {row for each in load_suite(name).published for row, _ in numbers(each)}
    assert asked - set(rows_of(name)) <= {"greedy_supervised", "gim_iterative"}


@pytest.mark.parametrize(
    "changes", [{"classes": {"class": 100}}, {"examples": {"train": 1_281_166, "test": 50_000}}, {}]
)
def test_a_folder_of_other_sizes_is_not_imagenet(changes):
    (data,) = (
        tag
        for tag in numbers("siddiqui2023/imagenet")["barlow_twins", "accuracy"].tags
        if tag.dimension == "data"
    )
    own = vgg8b(dataset={"name": "image_folder", "size": 256})
    sizes = [IMAGENET, IMAGENET | changes if changes else {}]
    same, other = (
        settings_of(cell(metrics={}, config=own, provenance={**provenance(), "data_counts": each}))
        for each in sizes
    )
    assert data.misfit(same, table="abstract") == ""
    assert data.misfit(other, table="abstract").startswith("data: data.")


def test_an_encoder_that_is_not_implemented_fits_no_record_and_says_so():
    page = markdown(
        [cell("clapp", metrics={"accuracy": 73.6}, config=vgg8b("gim"))],
        published=("illing2021/stl10",),
    )
    assert "has a VGG of six convolutions on 16×16 patches, which is not implemented here" in page


# -- rivals ----------------------------------------------------------------------------------------


def test_a_rival_reproduction_stands_beside_the_papers_number():
    page = markdown([cell("gim", metrics={"accuracy": 1.0})], published=("illing2021/stl10",))
    heading, row = table(page, TITLE)
    found = dict(zip(heading, row, strict=True))
    assert (found["paper"], found["elsewhere"]) == ("73.6", "68.74")
    assert (
        "- elsewhere, clapp: 68.74 in a reproduction of Illing et al. 2021, STL-10 accuracies, "
        "with encoder: unknown; head: unknown; augmentation: unknown\n" in page
    )


def test_a_rival_under_the_same_protocol_names_no_tag():
    page = markdown([cell("gim", metrics={"accuracy": 1.0})], published=("nokland2019/stl10",))
    assert "- elsewhere, predsim_cutout: 80.8 in Löwe et al. 2019, Table 1, page 5\n" in page


def test_published_numbers_keep_their_printed_digits():
    page = markdown([cell("gim", metrics={"accuracy": 1.0})], published=("siddiqui2023/imagenet",))
    assert [row[2] for row in table(page, TITLE)[1:]] == ["70.48", "71.57"]


def test_a_rival_that_is_not_there_is_answered(tmp_path, monkeypatch):
    (tmp_path / "one.toml").write_text(
        'short = "One"\n[a]\nplace = "Table 1"\nmargin = 1\nmargin_reason = "half of a gap"\n'
        'results = [{ method = "gim", metric = "accuracy", value = 1.0, unit = "%", '
        'rivals = ["one/a/cpc"] }]\n'
    )
    monkeypatch.setattr(published, "_folder", lambda: tmp_path)
    with pytest.raises(ConfigError, match=r"no rival 'one/a/cpc' \(one/a\).*one/a/gim"):
        load(["one/a"])
