"""A dictionary of image patches, learnt by k-means.

Letters: n = patches, l = patches of one image, p = values of a patch, q = its whitened components,
k = centroids.
"""

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from baselines.fixed_features import FixedFeatures, fixed_traits
from gim_bench.contract import Batch, Ingredients, Modality, Setup, Split
from gim_bench.errors import ConfigError, DataError
from gim_bench.settings.base import PositiveFloat, PositiveInt, Settings

# 10 squared gray levels of 255, which the paper adds to a patch's variance, where the deviation of
# the data set is 64 gray levels.
CONTRAST_FLOOR = 10 / 64**2
PATCHES_PER_IMAGE = 20  # drawn to fit centroids
PASSES = 10  # of k-means over the drawn patches
HELD_VALUES = 2**24  # distances to centroids that are in memory at once


class KMeansPatches(FixedFeatures):
    """K-means centroids of whitened patches of unlabelled images; a patch activates the near ones.

    A patch loses its mean and contrast, and is whitened. Centroid k is active by
    max(0, mean distance - distance to k), and activations are averaged over the image, or over each
    of its quadrants as in the paper. The mean stands in place of the paper's sum.

    Source: Coates, Lee and Ng 2011, sections 3 and 4; Coates and Ng 2011. Unlike there, k-means
    takes a few passes of small batches over a sample of the patches.
    """

    traits = fixed_traits(Modality.IMAGE, trains_on=Split.UNLABELLED)

    class Options(Settings):
        """Sizes of patches and dictionary. The defaults suit images of about 36 pixels."""

        patch_size: PositiveInt | None = None  # pixels; None: a third of the image, at most 12
        components: PositiveInt = 24  # of largest variance, kept by whitening
        whitening_floor: PositiveFloat = 0.1  # added to a component's variance
        centroids: PositiveInt = 128
        stride: PositiveInt = 1
        quadrants: bool = False
        fitted_patches: PositiveInt = 100_000  # at most

    @classmethod
    def check(cls, options: Settings, *, setup: Setup) -> None:
        """Check that patches fit into images. Raises: ConfigError."""
        assert isinstance(options, cls.Options)
        side = min(setup.shape[1:])
        if options.patch_size is not None and options.patch_size > side:
            raise ConfigError(
                f"method.kmeans_patches.patch_size is {options.patch_size}, but images are cropped "
                f"to {side} pixels: lower patch_size, to about a third of the crop"
            )

    def __init__(self, ingredients: Ingredients) -> None:
        super().__init__(ingredients)
        options = ingredients.options
        assert isinstance(options, self.Options)
        self.options = options
        channels, *sides = ingredients.shape
        self.patch_size = options.patch_size or max(1, min(12, min(sides) // 3))
        values = channels * self.patch_size**2
        self.encoder: PatchDictionary = PatchDictionary(
            values=values,
            components=min(options.components, values),
            centroids=options.centroids,
        )
        # The same draws on every device: the stream's seed, not its generator, which is on one.
        self.seed = ingredients.stream("patches").initial_seed()

    def fit_without_gradients(self, batches: Iterable[Batch]) -> None:
        """Fit whitening and centroids to patches at random places. Raises: DataError."""
        draw = torch.Generator().manual_seed(self.seed)
        drawn: list[Tensor] = []
        found = 0
        for batch in batches:
            drawn.append(self._random_patches(batch.inputs, draw))
            found += len(drawn[-1])
            if found >= self.options.fitted_patches:
                break
        if found < self.options.centroids:
            raise DataError(
                f"kmeans_patches has {found} patches of unlabelled images for "
                f"{self.options.centroids} centroids: add images, or lower "
                f"method.kmeans_patches.centroids"
            )
        patches = torch.cat(drawn)[: self.options.fitted_patches]
        self.encoder.fit(patches, floor=self.options.whitening_floor, seed=self.seed)

    def _random_patches(
        self, images: Float[Tensor, "image channel height width"], draw: torch.Generator
    ) -> Float[Tensor, "n p"]:
        """Normalised patches, `PATCHES_PER_IMAGE` of each image."""
        patches = self._patches(images, stride=1)
        chosen = torch.randint(patches.shape[1], (len(images), PATCHES_PER_IMAGE), generator=draw)
        of_image = torch.arange(len(images)).unsqueeze(1)
        return normalised(patches[of_image, chosen].flatten(0, 1))

    def _patches(
        self, images: Float[Tensor, "image channel height width"], *, stride: int
    ) -> Float[Tensor, "image l p"]:
        return F.unfold(images, self.patch_size, stride=stride).transpose(1, 2)

    @torch.no_grad()
    def features(
        self, inputs: Float[Tensor, "image channel height width"]
    ) -> Mapping[str, Float[Tensor, "image 1 d"]]:
        rows, columns = (
            (side - self.patch_size) // self.options.stride + 1 for side in inputs.shape[2:]
        )
        images = max(1, HELD_VALUES // (rows * columns * self.options.centroids))
        found = []
        with torch.autocast(inputs.device.type, enabled=False):  # differences of near distances
            for piece in inputs.split(images):
                patches = normalised(self._patches(piece, stride=self.options.stride))
                active = rearrange(
                    self.encoder(patches), "image (row column) k -> image k row column", row=rows
                )
                sides = 2 if self.options.quadrants else 1
                found.append(F.adaptive_avg_pool2d(active, sides).flatten(1))
        return {"module_1": torch.cat(found).unsqueeze(1)}


class PatchDictionary(nn.Module):
    """Whitening and centroids, all 0 until they are fitted; a forward gives activations."""

    mean: Tensor
    whitening: Tensor
    centroids: Tensor

    def __init__(self, *, values: int, components: int, centroids: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(values))
        self.register_buffer("whitening", torch.zeros(values, components))
        self.register_buffer("centroids", torch.zeros(centroids, components))

    def fit(self, patches: Float[Tensor, "n p"], *, floor: float, seed: int) -> None:
        """Fit whitening by PCA, then centroids by k-means on the CPU."""
        from sklearn.cluster import MiniBatchKMeans  # takes a second to import

        patches = patches.to("cpu", torch.float64)
        mean = patches.mean(dim=0)
        variances, directions = torch.linalg.eigh(torch.cov(patches.T, correction=0))
        # ZCA would turn these components back into pixels; distances do not notice a turn.
        kept = slice(-self.whitening.shape[1], None)
        whitening = directions[:, kept] / (variances[kept].clamp(min=0) + floor).sqrt()
        self.mean.copy_(mean)
        self.whitening.copy_(whitening)
        fitted = MiniBatchKMeans(
            len(self.centroids),
            max_iter=PASSES,
            batch_size=2048,
            n_init=1,
            random_state=seed % 2**32,
            max_no_improvement=None,  # no early end by a sum, whose rounding depends on threads
        ).fit(((patches - mean) @ whitening).float().numpy())
        self.centroids.copy_(torch.from_numpy(fitted.cluster_centers_))

    def forward(self, patches: Float[Tensor, "image l p"]) -> Float[Tensor, "image l k"]:
        """The "triangle" activation: how much nearer than the mean distance a centroid is."""
        distances = torch.cdist((patches - self.mean) @ self.whitening, self.centroids)
        return (distances.mean(dim=-1, keepdim=True) - distances).relu()


def normalised(patches: Float[Tensor, "*n p"]) -> Float[Tensor, "*n p"]:
    """Patches with mean 0 and, but for nearly flat ones, standard deviation 1."""
    centred = patches - patches.mean(dim=-1, keepdim=True)
    variance = centred.square().mean(dim=-1, keepdim=True)
    return centred / (variance + CONTRAST_FLOOR).sqrt()
