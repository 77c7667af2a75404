"""Networks, losses, gradients and samplers against PyTorch's with the same parameters."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402
from peers import module_of  # noqa: E402
from peers.gan import TorchGAN  # noqa: E402
from peers.optim import optimizer_of  # noqa: E402

from jaxgen import core  # noqa: E402
from jaxgen.models.ddpm import DDPM  # noqa: E402
from jaxgen.models.gan import GAN  # noqa: E402
from jaxgen.models.vae import VAE  # noqa: E402
from jaxgen.nets.conv import ConvDecoder, ConvEncoder  # noqa: E402
from jaxgen.nets.gan import DCGANCritic, DCGANGenerator, MLPCritic, MLPGenerator  # noqa: E402
from jaxgen.nets.mlp import MLP  # noqa: E402
from jaxgen.nets.unet import UNet  # noqa: E402
from jaxgen.ops.conv import conv, upconv  # noqa: E402
from jaxgen.ops.diffusion import q_sample  # noqa: E402
from jaxgen.ops.gan import Wasserstein, gradient_penalty  # noqa: E402
from jaxgen.ops.likelihood import Bernoulli, DiscretizedLogistic, Gaussian  # noqa: E402
from jaxgen.ops.samplers import DDIM, Ancestral  # noqa: E402
from jaxgen.optim import Adam  # noqa: E402

# Its threads wait for each other by spinning: on cores shared with another test, a hundred times slower than one.
torch.set_num_threads(1)


def normal(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def fresh_keys(num: int) -> jax.Array:
    """The keys that a step by `fresh_key` gives its examples."""
    return core.fold_each(fresh_key(), jnp.arange(num))


def fresh_key() -> jax.Array:
    """One key as a new object each time: the same draw for both sides is what is wanted here."""
    return jax.random.key(7)


def to_torch(x) -> torch.Tensor:
    """NHWC, or no image, to PyTorch's order."""
    x = torch.tensor(np.asarray(x))
    return x.movedim(-1, 1).contiguous() if x.ndim == 4 else x


def from_torch(x: torch.Tensor) -> np.ndarray:
    x = x.detach()
    return (x.movedim(1, -1) if x.ndim == 4 else x).numpy()


def close(ours, theirs, tolerance: float, what: str = "") -> None:
    """Equal to `tolerance` of the largest value there is, or of one where all are smaller."""
    ours, theirs = np.asarray(ours), from_torch(theirs) if isinstance(theirs, torch.Tensor) else theirs
    assert ours.shape == theirs.shape, what
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * max(1.0, np.abs(theirs).max()), err_msg=what)


def random_state(model: core.LossModel, batch: core.Batch) -> core.TrainState:
    """A state whose every parameter is random: layers that start at zero would hide all behind them."""
    shapes = jax.eval_shape(model.init_params, jax.random.key(0), batch)
    leaves, tree = jax.tree.flatten(shapes)
    values = [0.5 * normal(p.shape, i) / max(1, p.size // p.shape[-1]) ** 0.5 for i, p in enumerate(leaves)]
    params = jax.tree.unflatten(tree, [jnp.asarray(v) for v in values])
    return core.TrainState(
        step=jnp.zeros((), jnp.int32), params=params, opt_state={"all": model.optimizer.tx.init(params)}
    )


def same_parameters(model, params, module: torch.nn.Module, read, tolerance: float) -> None:
    """`read(p)` of every parameter of the module against `params`, a tree as Flax has it, relative to its size."""
    expected = module_of(model)
    expected.from_flax(params)
    for (name, ours), theirs in zip(expected.named_parameters(), module.parameters(), strict=True):
        ours, theirs = ours.detach(), read(theirs).detach()
        assert torch.linalg.norm(ours - theirs) <= tolerance * torch.linalg.norm(theirs) + 1e-6, name


# --- VAE ----------------------------------------------------------------------------------------------------------

VAES = {
    "mlp": VAE(shape=(7, 5, 1), latent=3, encoder=MLP(hidden=(16, 8)), decoder=MLP(hidden=(12,))),
    "mlp in colour": VAE(
        shape=(4, 3, 3), latent=3, encoder=MLP(hidden=(16,)), decoder=MLP(hidden=(12,)), likelihood=Gaussian(),
        num_classes=4, beta=2.0,
    ),
    "conv": VAE(
        shape=(12, 10, 1), latent=3, encoder=ConvEncoder(channels=(8, 12)), decoder=ConvDecoder(channels=(12, 8)),
        free_bits=0.1,
    ),
    "conv of odd size": VAE(
        shape=(7, 9, 3), latent=3, encoder=ConvEncoder(channels=(8, 12)), decoder=ConvDecoder(channels=(12, 8)),
        likelihood=DiscretizedLogistic(), num_classes=4, kl_warmup=10,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VAES)
def test_vae(name):
    model, batch_size = VAES[name], 6
    x = normal((batch_size, *model.shape))
    # A discretized likelihood is of the levels of a byte.
    grey = np.rint((np.tanh(x) + 1) * 127.5) / 127.5 - 1
    x = (x > 0).astype(np.float32) if isinstance(model.likelihood, Bernoulli) else grey.astype(np.float32)
    cond = np.arange(batch_size, dtype=np.int32) % max(1, model.num_classes)
    batch = {"x": jnp.asarray(x), "cond": jnp.asarray(cond)}
    state = random_state(model, batch)
    module = module_of(model)
    module.from_flax(state.params)
    x, cond = to_torch(x), torch.tensor(cond).long()

    y = jax.nn.one_hot(batch["cond"], model.num_classes) if model.num_classes else None
    mu, logvar = model.encode(state.params, batch["x"], y)
    their_mu, their_logvar = module.encode(x, module.label(cond))
    close(mu, their_mu, 1e-5)
    close(logvar, their_logvar, 1e-5)
    close(model.decode(state.params, mu, y), module.decoder(to_torch(mu), module.label(cond)), 1e-5)

    (loss, _), grads = jax.value_and_grad(model.loss, has_aux=True)(state.params, state, fresh_keys(len(x)), batch)
    eps = torch.tensor(np.asarray(core.normal_each(fresh_keys(len(x)), mu.shape[1:])))
    their_loss = module.loss(x, cond, eps=eps)
    their_loss.backward()
    np.testing.assert_allclose(loss, their_loss.item(), rtol=1e-5)
    same_parameters(model, grads, module, lambda p: p.grad, 1e-3)


# --- U-Net and DDPM -----------------------------------------------------------------------------------------------

NET = UNet(width=16, mults=(1, 2), blocks=1, attention=(4,), head_dim=8)
DDPMS = {
    "grey": DDPM(network=NET, shape=(8, 8, 1)),
    "rectangular, classes": DDPM(network=replace(NET, blocks=2, attention=(8,)), shape=(8, 12, 3), num_classes=5),
    "three levels": DDPM(network=replace(NET, mults=(1, 1, 2), attention=(6,)), shape=(12, 4, 2)),
}


@pytest.fixture(scope="module", params=["rectangular, classes", pytest.param("three levels", marks=pytest.mark.slow)])
def ddpm(request):
    """(model, state with random parameters, the peer with the same)."""
    model = replace(DDPMS[request.param], optimizer=Adam(lr=1e-3), ema_decay=0.0)
    x = jnp.zeros((2, *model.shape))
    state = random_state(model, {"x": x, "cond": jnp.zeros(2, jnp.int32)})
    module = module_of(model)
    module.from_flax(state.params)
    return model, state, module


def test_unet(ddpm):
    model, state, module = ddpm
    x, t = normal((3, *model.shape)), np.array([0, 17, 999], np.int32)
    cond = np.arange(3) % max(1, model.num_classes)
    y = jax.nn.one_hot(jnp.asarray(cond), model.num_classes) if model.num_classes else None
    ours = jax.jit(model.answer)(state.params, jnp.asarray(x), jnp.asarray(t), {} if y is None else {"y": y})
    theirs = module.predict(to_torch(x), torch.tensor(t), module.label(torch.tensor(cond)))
    assert np.abs(ours).max() > 0.1
    close(ours, theirs, 1e-4)


def test_gradients_and_adam_step(ddpm):
    model, state, module = ddpm
    x0 = np.tanh(normal((4, *model.shape)))
    batch = {"x": jnp.asarray(x0), "cond": jnp.arange(4, dtype=jnp.int32)}
    keys_t, keys_eps, *_ = core.split_each(fresh_keys(4), 4)
    t = core.integer_each(keys_t, 0, model.schedule.num_steps)
    eps = core.normal_each(keys_eps, model.shape)

    @jax.jit
    def run(state):
        grads, _ = jax.grad(model.seen, has_aux=True)(state.params, state, fresh_keys(4), batch)
        return grads, model.train_step(state, fresh_key(), batch)

    grads, (stepped, metrics) = run(state)

    optimizer, _ = optimizer_of(model.optimizer, module.parameters())
    their_loss = module.loss(to_torch(x0), torch.arange(4), t=torch.tensor(np.asarray(t)).long(), eps=to_torch(eps))
    their_loss.backward()
    np.testing.assert_allclose(metrics["loss"], their_loss.item(), rtol=1e-4)
    same_parameters(model, grads, module, lambda p: p.grad, 1e-3)
    # Adam's first step is lr * sign(gradient) where the gradient is not tiny: compare what moved, not its rounding.
    optimizer.step()
    same_parameters(model, stepped.params, module, lambda p: p, 1e-4)
    module.from_flax(state.params)


@pytest.mark.parametrize("sampler", [Ancestral(steps=20), DDIM(steps=20)], ids=str)
def test_sampler(sampler):
    model = replace(DDPMS["grey"], sampler=sampler, ema_decay=0.0)
    state = random_state(model, {"x": jnp.zeros((2, *model.shape))})
    keys = core.sample_keys(0, 3)
    ours = core.sample(model, state, keys)

    def noise(i: int) -> torch.Tensor:
        return to_torch(core.normal_each(core.fold_each(keys, i), model.shape))

    module = module_of(model)
    module.from_flax(state.params)
    with torch.inference_mode():
        close(ours, module.sample(3, noise=noise), 1e-3)


def test_schedule_and_noising():
    """x_t of both, at both ends of the schedule."""
    model = DDPMS["grey"]
    module = module_of(model)
    x0, eps, t = normal((3, *model.shape)), normal((3, *model.shape), 1), np.array([0, 500, 999])
    ours = q_sample(model.schedule, jnp.asarray(x0), jnp.asarray(t), jnp.asarray(eps))
    alpha, sigma = (table[torch.tensor(t)][:, None, None, None] for table in (module.alpha, module.sigma))
    close(ours, alpha * to_torch(x0) + sigma * to_torch(eps), 1e-6)


# --- convolutions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 3, 4])
@pytest.mark.parametrize("shape", [(8, 8), (7, 5), (6, 9)], ids=str)
def test_conv(shape, size, stride):
    """`conv` and both gradients, padded unevenly where SAME asks for it."""
    x, kernel = normal((2, *shape, 3)), normal((size, size, 3, 4), 1)
    pads = tuple(jax.lax.padtype_to_pads(shape, (size, size), (stride, stride), "SAME"))
    ours, pull = jax.vjp(lambda x, k: conv(x, k, (stride, stride), pads), jnp.asarray(x), jnp.asarray(kernel))
    dy = normal(ours.shape, 2)
    dx, dk = pull(jnp.asarray(dy))

    a = to_torch(x).requires_grad_()
    w = torch.tensor(kernel.transpose(3, 2, 0, 1)).contiguous().requires_grad_()
    theirs = F.conv2d(F.pad(a, (*pads[1], *pads[0])), w, stride=stride)
    theirs.backward(to_torch(dy))
    close(ours, theirs, 1e-5)
    close(dx, a.grad, 1e-5)
    close(dk, w.grad.numpy().transpose(2, 3, 1, 0), 1e-5)


@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (1, 1)], ids=str)
def test_upconv(shape):
    """`upconv` is ConvTranspose2d(kernel 4, stride 2, padding 1), gradients too."""
    x, kernel = normal((2, *shape, 3)), normal((4, 4, 3, 5), 1)
    ours, pull = jax.vjp(upconv, jnp.asarray(x), jnp.asarray(kernel))
    dy = normal(ours.shape, 2)
    dx, dk = pull(jnp.asarray(dy))

    a = to_torch(x).requires_grad_()
    w = torch.tensor(kernel.transpose(2, 3, 0, 1)).contiguous().requires_grad_()
    theirs = F.conv_transpose2d(a, w, stride=2, padding=1)
    theirs.backward(to_torch(dy))
    close(ours, theirs, 1e-5)
    close(dx, a.grad, 1e-5)
    close(dk, w.grad.numpy().transpose(2, 3, 0, 1), 1e-5)


# --- GAN ----------------------------------------------------------------------------------------------------------

GANS = {
    "fully connected": GAN(
        shape=(5, 4, 2), latent=3, generator=MLPGenerator(hidden=(6, 8)), critic=MLPCritic(hidden=(8, 6))
    ),
    "transposed": GAN(
        shape=(14, 13, 3), latent=3, generator=DCGANGenerator(channels=(8, 6)), critic=DCGANCritic(channels=(6, 8))
    ),
    "gradient penalty": GAN(
        shape=(8, 8, 1), latent=3, generator=DCGANGenerator(channels=(8, 6), up="nearest", slope=0.2),
        critic=DCGANCritic(channels=(6, 8), size=3, normalize=False, bias=False), objective=Wasserstein(),
        gradient_penalty=10.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GANS)
def test_gan(name):
    """Both losses by batch statistics, and their gradients by the network each is for."""
    model, batch_size = GANS[name], 6
    real, z = np.tanh(normal((batch_size, *model.shape))), normal((batch_size, model.latent), 1)
    u = np.random.default_rng(2).uniform(size=batch_size).astype(np.float32)
    state = model.init(fresh_key(), {"x": jnp.asarray(real)})
    params = jax.tree.map(lambda p: jnp.asarray(p + 0.1 * normal(p.shape)), state.params)

    @jax.jit
    def ours(params):
        def judge(critic, x):
            return model._critic_logits(critic, state.extra["critic"], "fake", x, None, keys=fresh_keys(batch_size))[0]

        def fakes(gen):
            return model._generate(gen, state.extra["gen"], jnp.asarray(z), None, fresh_keys(batch_size))[0]

        fake = fakes(params["gen"])

        def critic_loss(critic):
            loss = model.objective.critic(judge(critic, jnp.asarray(real)), judge(critic, fake))
            if model.gradient_penalty:
                x = fake + u[:, None, None, None] * (real - fake)
                loss += model.gradient_penalty * gradient_penalty(lambda x: judge(critic, x), x)
            return loss

        def generator_loss(gen):
            return model.objective.generator(judge(params["critic"], fakes(gen)))

        return {
            "critic": jax.value_and_grad(critic_loss)(params["critic"]),
            "gen": jax.value_and_grad(generator_loss)(params["gen"]),
        }

    values = ours(params)
    assert TorchGAN.has(model)
    module = module_of(model)
    module.from_flax(params)
    fake = module.gen(torch.tensor(z))
    losses = {
        "critic": module.critic_loss(to_torch(real), fake.detach(), torch.tensor(u)),
        "gen": module.generator_loss(fake),
    }
    for network, loss in losses.items():
        np.testing.assert_allclose(values[network][0], loss.item(), rtol=1e-4, atol=1e-5)
        part = getattr(module, network)
        module.zero_grad()
        loss.backward(inputs=list(part.parameters()), retain_graph=True)
        grads = {name: g for name, (_, g) in values.items()}
        expected = module_of(model)
        expected.from_flax(grads)
        for (at, g), p in zip(getattr(expected, network).named_parameters(), part.parameters(), strict=True):
            assert torch.linalg.norm(g - p.grad) <= 1e-3 * torch.linalg.norm(p.grad) + 1e-5, at
