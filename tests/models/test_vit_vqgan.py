"""ViT-VQGAN's networks and adversarial training, and the ViT generator."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxgen import core
from jaxgen.errors import UserError
from jaxgen.models.patch_autoencoder import bounded_ratio
from jaxgen.models.pix2pix import Pix2Pix
from jaxgen.models.vqgan import VQGAN
from jaxgen.nets.pix2pix import PatchCritic
from jaxgen.nets.transformer import Transformer
from jaxgen.nets.vit import ViTCoder, ViTGenerator
from jaxgen.ops.likelihood import LogitLaplace
from jaxgen.ops.quantize import Codebook
from jaxgen.optim import Adam

BODY = Transformer(width=16, depth=1, heads=2)
TINY = VQGAN(
    shape=(16, 24, 3), codebook=Codebook(size=16, dim=4, cosine=True, decay=0.0),
    generator=ViTCoder(patch=4, encoder=BODY, decoder=BODY), critic=PatchCritic(channels=(4, 8)), gan_weight=0.8,
)  # fmt: skip
X = np.tanh(np.random.default_rng(0).normal(size=(4, 16, 24, 3))).astype(np.float32)


@pytest.fixture(scope="module")
def state():
    return core.init(TINY, core.run_key(0, core.INIT), {"x": X})


def test_size_in_is_size_out_and_codes_round_trip(state):
    """One code for each patch; decoding them gives the reconstruction."""
    tokens = jax.jit(TINY.encode_codes)(state, X)
    assert tokens.shape == (4, 4 * 6) == (4, TINY.num_tokens)
    images = jax.jit(TINY.decode_codes)(state, tokens)
    assert images.shape == X.shape
    rebuilt = TINY.image(jax.jit(TINY._rebuild)(TINY.weights(state), state.extra["codes"], X)[0])
    np.testing.assert_allclose(images, rebuilt, atol=1e-5)


def test_codes_are_of_unit_length(state):
    (codes,) = TINY._codes(TINY.weights(state), state.extra["codes"])
    np.testing.assert_allclose(jnp.linalg.norm(codes, axis=-1), 1, rtol=1e-5)


def test_one_transformer_under_two_names_is_two(state):
    """A script may pass the same value as encoder and decoder: their parameters are not shared."""
    network = state.params["gen"]["network"]
    to_code, from_code = (network[name]["body"]["blocks"] for name in ("to_code", "from_code"))
    to_code, from_code = (blocks["token_mlp"]["up"]["kernel"] for blocks in (to_code, from_code))
    assert to_code.shape == from_code.shape
    assert not np.allclose(to_code, from_code)


def test_lambda_is_the_ratio_of_gradients_at_the_last_layer(state):
    """Eq. 7, beside whole gradients, of which that layer's kernel is taken."""
    weights, running = state.params["gen"], state.extra["codes"]

    def norm(term):
        grads = jax.grad(lambda weights: term(TINY._rebuild(weights, running, X)[0]))(weights)
        return jnp.linalg.norm(grads["network"]["from_code"]["pixels"]["kernel"])

    @jax.jit
    def expected():
        pixels, game = norm(lambda out: TINY.pixel_loss({}, out, X)[0]), norm(lambda out: TINY._game(state, out)[0])
        return pixels / (game + 1e-4)

    @jax.jit
    def found():
        def answer(weights, keys, batch):
            return TINY.answer(weights, state, keys, batch)

        return TINY.balance(state, answer, jax.random.key(0), {"x": X})

    assert float(found()) == pytest.approx(float(expected()), rel=1e-3)
    assert float(bounded_ratio(jnp.ones(()), jnp.array(jnp.nan))) == 0
    assert float(bounded_ratio(1e6 * jnp.ones(()), jnp.zeros(()))) == 1e4


def test_the_critic_waits_for_its_step(state):
    """Before `gan_start` the critic stands still and the network's loss excludes it. A dead code restarts in the
    average too."""
    step = jax.jit(replace(TINY, gan_start=1, ema_decay=0.999).train_step)
    ((name, running),) = state.extra["codes"].items()
    dying = {name: running.replace(count=running.count.at[3].set(-1e3))}
    averaged = state.replace(ema={"gen": state.params["gen"]}, extra={**state.extra, "codes": dying})
    waiting, numbers = step(averaged, jax.random.key(0), {"x": X})
    before, now, mean = (tree["gen"]["codes"][name] for tree in (state.params, waiting.params, waiting.ema))
    np.testing.assert_array_equal(now[3], mean[3])
    assert not np.allclose(now[3], before[3], atol=0.1)
    assert not np.array_equal(now[:3], mean[:3])
    assert float(numbers["loss"]) == pytest.approx(float(numbers["mse"] + numbers["code_loss"]), rel=1e-5)
    for a, b in zip(jax.tree.leaves(waiting.params["critic"]), jax.tree.leaves(state.params["critic"])):
        np.testing.assert_array_equal(a, b)
    assert float(numbers["critic_loss"]) == 0
    playing, numbers = step(waiting, jax.random.key(1), {"x": X})
    assert float(numbers["critic_loss"]) > 0
    expected = numbers["mse"] + numbers["code_loss"] + 0.8 * numbers["lambda"] * numbers["gan"]
    assert float(numbers["loss"]) == pytest.approx(float(expected), rel=1e-5)
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), playing.params["critic"], waiting.params["critic"])
    assert any(jax.tree.leaves(moved))


def test_a_critic_that_waited_starts_as_a_new_one_does(state):
    """Its optimizer state is still fresh, so its first step equals the one it would have taken at step 0."""
    late, now = jax.jit(replace(TINY, gan_start=3).train_step), jax.jit(TINY.train_step)
    waiting = state
    for i in range(3):
        waiting, _ = late(waiting, jax.random.key(i), {"x": X})
    for a, b in zip(*(jax.tree.leaves(s.opt_state["critic"]) for s in (waiting, state))):
        np.testing.assert_array_equal(a, b)
    after, _ = late(waiting, jax.random.key(9), {"x": X})
    at_once, _ = now(waiting, jax.random.key(9), {"x": X})
    for a, b in zip(*(jax.tree.leaves(s.params["critic"]) for s in (after, at_once))):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_a_perceptual_loss_needs_weights(state):
    with pytest.raises(UserError, match=r"name files with --model\.perceptual VGG16 HEADS"):
        replace(TINY, perceptual_weight=0.1).check({"x": jnp.zeros((1, *TINY.shape))})


@pytest.mark.slow
def test_the_perceptual_loss_is_lpips(state, tmp_path):
    """Of random weights, written as `jaxgen weights convert` writes them."""
    from jaxgen import weights
    from jaxgen.metrics.lpips import LPIPS
    from jaxgen.weights import store

    files = []
    for kind in ("vgg16", "lpips_vgg"):
        shapes = store.flatten_shapes(weights.KINDS[kind].template())
        rng = np.random.default_rng(0)
        arrays = {n: np.abs(rng.normal(size=s.shape) * 0.05).astype(np.float32) for n, s in shapes.items()}
        files.append(str(tmp_path / f"{kind}.safetensors"))
        store.save(tmp_path / f"{kind}.safetensors", kind, arrays, "random", "0", False)
    model = replace(TINY, perceptual_weight=1.0, perceptual=tuple(files), l2_weight=0.0)
    model.check({"x": X})
    extra = jax.jit(model.init)(jax.random.key(0), {"x": jnp.asarray(X)}).extra
    loaded = [weights.load(kind, file) for kind, file in zip(("vgg16", "lpips_vgg"), files)]
    for kept, published in zip(extra["lpips"], loaded):
        jax.tree.map(np.testing.assert_array_equal, kept, published.params)
    raw = np.rint((X + 1) * 127.5).astype(np.uint8)
    other = raw[:, ::-1].copy()
    signed = [jnp.asarray(a, jnp.float32) / 127.5 - 1 for a in (raw, other)]
    loss, numbers = model.pixel_loss(extra, signed[1], signed[0])
    expected = LPIPS(*loaded)(raw, other)
    np.testing.assert_allclose(numbers["lpips"], jnp.mean(expected), rtol=1e-4)
    assert float(loss) == float(numbers["lpips"])


def test_a_run_with_a_perceptual_loss_is_restored_without_its_files():
    """The shapes of its state need none; its weights come with the state."""
    model = replace(TINY, perceptual_weight=1.0, perceptual=("none", "none"))
    state = jax.eval_shape(model.init, jax.random.key(0), {"x": jnp.asarray(X)})
    trunk, heads = state.extra["lpips"]
    assert heads["lin0"].shape == (64,) and len(jax.tree.leaves(trunk)) == 26
    with pytest.raises(UserError, match="none cannot be read"):
        model.check({"x": jnp.asarray(X)})


@pytest.mark.parametrize(
    ("shape", "network", "match"),
    [
        ((10, 12, 3), ViTCoder(patch=4, encoder=BODY, decoder=BODY), "cut into whole patches of 4 x 4"),
        ((8, 8, 3), ViTCoder(patch=4, encoder=replace(BODY, causal=True), decoder=BODY), "causal"),
        ((8, 8, 3), ViTCoder(patch=4, encoder=BODY, decoder=replace(BODY, dropout=0.1)), "dropout 0.1"),
    ],
)
def test_images_that_cannot_be_encoded_are_refused(shape, network, match):
    model = replace(TINY, shape=shape, generator=network)
    with pytest.raises(UserError, match=match):
        model.check({"x": jnp.zeros((1, *shape))})


def test_logit_laplace_is_a_density_over_pixels():
    """Against SciPy's Laplace with the change of variables; its median comes back."""
    likelihood = LogitLaplace()
    x = np.linspace(-1, 1, 9).astype(np.float32)[:, None]
    params = np.stack([np.linspace(-2, 2, 9), np.linspace(-1, 1, 9)], axis=1).astype(np.float32)
    u = 0.8 * (x[:, 0].astype(np.float64) + 1) / 2 + 0.1
    b = np.exp(5 * np.tanh(params[:, 1].astype(np.float64) / 5))
    logit = np.log(u / (1 - u))
    expected = stats.laplace.logpdf(logit, params[:, 0], b) - np.log(u * (1 - u))
    np.testing.assert_allclose(likelihood.log_prob(jnp.asarray(params), jnp.asarray(x))[:, 0], expected, rtol=1e-4)
    exact = np.stack([logit, np.zeros(9)], axis=1).astype(np.float32)
    np.testing.assert_allclose(likelihood.mean(jnp.asarray(exact)), x, atol=1e-5)


# --- the document's generator ---


def shape_of(generator, shape, patch):
    network = replace(generator, patch=patch)
    source = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    variables = jax.eval_shape(partial(network.init, out=3), jax.random.key(0), source)
    return jax.eval_shape(partial(network.apply, out=3), variables, source).shape


@pytest.mark.parametrize("patch", [2, 4, 8, 16])
def test_regression_256_pixels_in_are_256_out(patch):
    """The sketch doubled five times after patches of 16: 512 pixels for 256."""
    generator = ViTGenerator(body=BODY, channels=(8, 4))
    assert shape_of(generator, (256, 256, 3), patch) == (1, 256, 256, 3)


def test_an_image_of_no_whole_patches_comes_back_at_its_size():
    assert shape_of(ViTGenerator(body=BODY, channels=(8,)), (30, 21, 1), 8) == (1, 30, 21, 3)


def test_every_pixel_depends_on_every_patch():
    """Two blocks let the last patch be seen in the first, and what is padded stays outside."""
    generator = ViTGenerator(patch=4, body=Transformer(width=16, depth=2, heads=2), channels=(8,))
    source = jnp.asarray(X[:1, :10, :14])
    variables = generator.init(jax.random.key(0), source, out=3)
    paint = jax.jit(lambda source: generator.apply(variables, source, out=3))
    changed = paint(source.at[:, 8:, 12:].add(1.0)) - paint(source)
    assert changed.shape == (1, 10, 14, 3)
    assert float(jnp.min(jnp.max(jnp.abs(changed), axis=-1))) > 0


def test_patches_that_do_not_double_back_are_refused():
    model = Pix2Pix(generator=ViTGenerator(patch=6, body=BODY), critic=PatchCritic(channels=(4, 8)), optimizer=Adam())
    x = jnp.zeros((1, 24, 24, 3))
    with pytest.raises(UserError, match="patch is 6: a power of two"):
        model.check({"x": x, "cond": x})
