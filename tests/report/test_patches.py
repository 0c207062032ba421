"""Pictures of patches in the report."""

from base64 import b64encode
from pathlib import Path

from gim_bench.records.patches import Drawn, Picture, Pictures
from tests.report.cells import cell, report_on

PNG = b"\x89PNG one"


def drawn(module="module_1"):
    picture = Picture(
        file=f"{module}.png",
        sha256="",
        module=module,
        neurons=(5, 2),
        patches=3,
        size=(16, 12),
        places=(),
    )
    facts = Pictures(key="", weights={}, images=2000, pictures=(picture,))
    return Drawn(facts=facts, folder=Path("runs/x/patches"), contents={picture.file: PNG})


def report(records, *, fmt="md", of=lambda record: drawn()):
    return report_on(records, fmt=fmt, pictures=of)


def test_a_page_holds_the_picture_with_alternative_text_and_caption():
    page = report([cell(metrics={"accuracy": 60.0})], fmt="html")
    assert f'src="data:image/png;base64,{b64encode(PNG).decode()}"' in page
    assert 'alt="Grid of image patches of gim, seed 0, module 1. Rows from the top: ' in page
    assert "neurons 5, 2." in page
    assert "Figure 2 (Löwe et al. 2019), gim, seed 0, module 1: the 3 most exciting patches" in page


def test_markdown_names_the_file():
    assert "(file: runs/x/patches/module_1.png)" in report([cell(metrics={"accuracy": 60.0})])


def test_without_pictures_there_is_no_section():
    assert "excite" not in report([cell(metrics={"accuracy": 60.0})], of=lambda record: None)


def test_of_several_seeds_the_first_with_pictures_is_shown():
    text = report(
        [cell(seed=0, metrics={}), cell(seed=1, metrics={}), cell(seed=2, metrics={})],
        of=lambda record: drawn() if record.seed else None,
    )
    assert "gim, seed 1, module 1" in text
    assert "gim, seed 2, module 1" not in text
