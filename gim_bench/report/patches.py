"""Figure 2 of the paper: the patches of test images that excite neurons most."""

from collections.abc import Callable, Sequence

from gim_bench.records import patches
from gim_bench.records.record import Record
from gim_bench.report.columns import Row
from gim_bench.report.document import Block, Picture, Section

PicturesOf = Callable[[Record], patches.Drawn | None]  # None: the record has no pictures
NOTE = (
    "Each row of a picture is a neuron: a channel of the module's encodings. The row shows the "
    "patches of test images that excite the neuron most, the strongest first and at most one of an "
    "image. A patch is all that the encoding sees of the image. The neurons are those of largest "
    "variance over all places of the images, the largest first; the paper does not say how its "
    "neurons were chosen."
)


def patches_section(rows: Sequence[Row], pictures: PicturesOf) -> Section:
    """A picture for each method and module, of the first seed that has pictures."""
    found: list[Block] = []
    for row in rows:
        for record in row.records:
            if drawn := pictures(record):
                found += [_picture(record, shown, drawn) for shown in drawn.facts.pictures]
                break
    return Section(
        title="Figure 2: patches that excite neurons most", blocks=[NOTE, *found] if found else []
    )


def _picture(record: Record, shown: patches.Picture, drawn: patches.Drawn) -> Picture:
    height, width = shown.size
    of = shown.file.removesuffix(".png").replace("_", " ")
    what = f"{record.method}, seed {record.seed}, {of}"
    neurons = ", ".join(map(str, shown.neurons))
    return Picture(
        title=(
            f"Figure 2 (Löwe et al. 2019), {what}: the {shown.patches} most exciting patches, up "
            f"to {height}×{width} pixels, of {len(shown.neurons)} neurons, among "
            f"{drawn.facts.images:,} test images"
        ),
        alt=(
            f"Grid of image patches of {what}. Rows from the top: neurons {neurons}. Each row has "
            f"{shown.patches} patches, the most exciting one on the left."
        ),
        content=drawn.contents[shown.file],
        file=str(drawn.folder / shown.file),
    )
