"""Masked diffusion: its bound against loops over all masks, samples of a known network, filling in, text in blocks."""

import io
import itertools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import core
from jaxgen.codecs import Identity
from jaxgen.data import Text
from jaxgen.data.tokenizers import Bytes
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.inference import text
from jaxgen.models.gpt import prompts
from jaxgen.models.maskgit import MaskedTransformer
from jaxgen.models.mdlm import MDLM
from jaxgen.nets.transformer import Transformer
from jaxgen.ops.decoding import Decoding
from jaxgen.ops.masking import CosineMasking, LogLinear
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import Trained

BODY = Transformer(width=8, depth=1, heads=1)
K, T = 3, 3
TINY = MDLM(network=MaskedTransformer(vocab=K, window=T, body=BODY), steps=4)
WRITER = MDLM(
    network=MaskedTransformer(vocab=256, window=12, body=BODY), given=1, steps=12, block=4, decoding=Decoding(tokens=16)
)
STATES = np.array(list(itertools.product(range(K + 1), repeat=T)))
"""All sequences of tokens and masks; K is the mask."""
WHOLE = np.array(list(itertools.product(range(K), repeat=T)))


def strengthened(state, scale: float = 6.0):
    """With parameters so large that tokens depend on each other."""
    return state.replace(params=jax.tree.map(lambda a: scale * a, state.params))


@pytest.fixture(scope="module")
def state():
    return strengthened(core.init(TINY, core.run_key(0, core.INIT), {"x": WHOLE.astype(np.int32)}))


@pytest.fixture(scope="module")
def table(state) -> np.ndarray:
    """p[state, place, token] f64 of the network, for all states: what everything is computed from by loops."""
    log_p = jax.jit(TINY.log_probs)(state.params, jnp.asarray(STATES % K, jnp.int32), jnp.asarray(STATES == K))
    return np.exp(np.asarray(log_p, np.float64))


def number(z) -> int:
    return int(np.ravel_multi_index(tuple(z), (K + 1,) * T))


def discrete_bound(table: np.ndarray, x, schedule, steps: int) -> float:
    """-ELBO of x in float64, by sums over all paths' masks: KL of q(z_s | z_t, x) from p(z_s | z_t) at every step,
    for every set of hidden tokens at t. The last step is to s = 0, the reconstruction is exact there."""
    total = 0.0
    for i in range(steps):
        t, s = 1 - i / steps, 1 - (i + 1) / steps
        alpha_t, alpha_s = (float(schedule.alpha(jnp.float32(v))) for v in (t, s))
        share = (alpha_s - alpha_t) / (1 - alpha_t)
        for hidden in itertools.product((False, True), repeat=T):
            weight = math.prod(1 - alpha_t if h else alpha_t for h in hidden)
            z = np.where(hidden, K, x)
            for place in np.flatnonzero(hidden):
                # q reveals x there with `share`, p spreads the same share over tokens.
                total += weight * share * math.log(1 / table[number(z), place, x[place]])
    return total


def continuous_bound(table: np.ndarray, x) -> float:
    """The same in the limit, in closed form: a set of k hidden tokens of T counts 1 / (k binomial(T, k)) in all."""
    total = 0.0
    for hidden in itertools.product((False, True), repeat=T):
        if k := sum(hidden):
            z = np.where(hidden, K, x)
            nats = sum(-math.log(table[number(z), place, x[place]]) for place in np.flatnonzero(hidden))
            total += nats / (k * math.comb(T, k))
    return total


def sampler_law(table: np.ndarray, schedule, steps: int) -> dict[tuple, float]:
    """The probability of every sequence under the sampler of so many steps, by enumerating its states."""
    law = {(K,) * T: 1.0}
    for i in range(steps):
        t, s = 1 - i / steps, 1 - (i + 1) / steps
        alpha_t, alpha_s = (float(schedule.alpha(jnp.float32(v))) for v in (t, s))
        share = (alpha_s - alpha_t) / (1 - alpha_t)
        new: dict[tuple, float] = {}
        for z, p in law.items():
            choices = [
                [(K, 1 - share), *((k, share * table[number(z), place, k]) for k in range(K))] if z[place] == K
                else [(z[place], 1.0)]
                for place in range(T)
            ]  # fmt: skip
            for combination in itertools.product(*choices):
                q = p * math.prod(chance for _, chance in combination)
                if q:
                    key = tuple(int(k) for k, _ in combination)
                    new[key] = new.get(key, 0.0) + q
        law = new
    return law


# --- the forward process and its bound --------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [LogLinear(), CosineMasking()])
def test_schedules(schedule):
    """All is seen at 0 and nothing at 1; the weight is -alpha' / (1 - alpha); hiding twice is hiding once: what is
    hidden at s stays so, and what is revealed on the way back undoes exactly that."""
    alpha = [float(schedule.alpha(jnp.float32(t))) for t in (0.0, 1.0)]
    np.testing.assert_allclose(alpha, [1, 0], atol=1e-7)
    t, s = np.linspace(0.1, 0.95, 12), np.linspace(0.05, 0.6, 12)
    with jax.enable_x64(True):
        slope = (np.asarray(schedule.alpha(t + 1e-6)) - np.asarray(schedule.alpha(t - 1e-6))) / 2e-6
        at_t, at_s = np.asarray(schedule.alpha(jnp.asarray(t))), np.asarray(schedule.alpha(jnp.asarray(s)))
        np.testing.assert_allclose(schedule.weight(jnp.asarray(t)), -slope / (1 - at_t), rtol=1e-6)
        later, earlier = np.minimum(at_t, at_s), np.maximum(at_t, at_s)
        share = np.asarray(schedule.revealed(jnp.asarray(np.maximum(t, s)), jnp.asarray(np.minimum(t, s))))
    # Seen at the earlier time: seen at the later one, or hidden there and revealed.
    np.testing.assert_allclose(earlier, later + (1 - later) * share, rtol=1e-9)


@pytest.mark.parametrize("schedule", [LogLinear(), CosineMasking()])
def test_the_discrete_bound_converges_to_the_continuous_one(table, schedule):
    """With an error of the order of 1 / S."""
    x = WHOLE[5]
    limit = continuous_bound(table, x)
    gaps = np.abs([discrete_bound(table, x, schedule, steps) - limit for steps in (8, 32, 128)])
    assert gaps[0] > 0.003 * limit  # the order of tokens matters to this network
    assert gaps[-1] < 0.01 * limit
    np.testing.assert_array_less(gaps[1:], gaps[:-1] / 3)


@pytest.mark.parametrize(("schedule", "steps"), [(LogLinear(), 3), (CosineMasking(), 8)])
def test_the_bound_is_above_the_likelihood_of_the_sampler(table, schedule, steps):
    law = sampler_law(table, schedule, steps)
    assert sum(law.values()) == pytest.approx(1, abs=1e-6)
    gaps = [discrete_bound(table, x, schedule, steps) + math.log(law[tuple(x)]) for x in WHOLE]
    assert min(gaps) >= 0
    assert max(gaps) > 0.01  # orders matter to this network


def test_the_loss_is_the_continuous_bound_under_either_schedule(state, table):
    x = np.tile(WHOLE[5].astype(np.int32), (4096, 1))
    expected = continuous_bound(table, WHOLE[5]) / T
    for model in (TINY, replace(TINY, schedule=CosineMasking(), times=4)):
        value = jax.jit(model.loss)(state.params, state, core.sample_keys(0, len(x)), {"x": x})[0]
        assert float(value) == pytest.approx(expected, rel=0.05)
    numbers = jax.jit(TINY.evaluate)(state, core.sample_keys(0, len(x)), {"x": x})
    assert float(numbers["nats_per_token"].mean()) == pytest.approx(expected, rel=0.02)
    np.testing.assert_allclose(numbers["bits_per_token"] * math.log(2), numbers["nats_per_token"], rtol=1e-6)


def test_more_times_narrow_the_loss_and_an_example_draws_by_its_own_key(state):
    """Losses of single examples: of four even times their quartiles are less than half as far apart as of one."""
    x = jnp.asarray(WHOLE[5:6].astype(np.int32))

    def each(model):
        keys = core.sample_keys(0, 512)
        return np.asarray(jax.jit(jax.vmap(lambda k: model.loss(state.params, state, k[None], {"x": x})[0]))(keys))

    one, four = each(TINY), each(replace(TINY, times=4))
    width_one, width_four = (np.diff(np.quantile(losses, [0.25, 0.75]))[0] for losses in (one, four))
    assert width_four < width_one / 2
    whole = jax.jit(TINY.loss)(state.params, state, core.sample_keys(0, 8), {"x": jnp.repeat(x, 8, axis=0)})[0]
    assert float(whole) == pytest.approx(one[:8].mean(), rel=1e-5)


def test_given_tokens_are_never_hidden_and_cost_nothing(state, table):
    """With two of three tokens given, the bound is -log p of the third one, exactly."""
    model, x = replace(TINY, given=2), jnp.asarray(WHOLE.astype(np.int32))
    expected = np.array([-math.log(table[number((*row[:2], K)), 2, row[2]]) for row in WHOLE])
    found = jax.jit(model.evaluate)(state, core.sample_keys(0, len(x)), {"x": x, "bytes": jnp.ones(len(x))})
    np.testing.assert_allclose(found["nats_per_token"], expected, rtol=1e-5)
    np.testing.assert_allclose(found["bits_per_byte"][:, 0], expected / math.log(2), rtol=1e-5)


# --- samples ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [LogLinear(), CosineMasking()])
def test_samples_have_the_law_of_the_enumerated_sampler(state, table, schedule):
    model, num = replace(TINY, schedule=schedule), 8192
    x = np.asarray(jax.jit(model.sample)(state, core.sample_keys(1, num)))
    law = sampler_law(table, schedule, model.steps)
    counts = np.array([(x == row).all(axis=1).sum() for row in WHOLE])
    expected = num * np.array([law[tuple(row)] for row in WHOLE])
    assert counts.sum() == num  # no mask is left
    z = (counts - expected) / np.sqrt(expected + 1)
    assert np.abs(z).max() < 4.5
    assert (z**2).sum() < 26 + 5 * math.sqrt(52)


def test_filling_in_keeps_what_is_given_and_follows_it(state, table):
    """The one token that is drawn has the network's distribution given the others."""
    tokens = jnp.asarray(np.tile(WHOLE[5].astype(np.int32), (4096, 1)))
    given = jnp.array([[True, False, True]])
    x = np.asarray(jax.jit(TINY.infill)(state, core.sample_keys(2, 4096), tokens, given))
    np.testing.assert_array_equal(x[:, [0, 2]], np.asarray(tokens)[:, [0, 2]])
    hidden = WHOLE[5].copy()
    hidden[1] = K
    share = np.bincount(x[:, 1], minlength=K) / len(x)
    np.testing.assert_allclose(share, table[number(hidden), 1], atol=0.03)


def test_guidance_multiplies_the_odds_of_the_class():
    model = replace(TINY, num_classes=2, class_dropout=0.5)
    x, y = jnp.asarray(WHOLE[:4].astype(np.int32)), jnp.array([0, 1, 0, 1])
    params = strengthened(core.init(model, core.run_key(0, core.INIT), {"x": x, "cond": y})).params
    mask = jnp.ones(x.shape, bool)
    log_probs = jax.jit(model.log_probs)
    own, null = (np.asarray(log_probs(params, x, mask, c)) for c in (y, jnp.full(4, 2)))
    guided = jax.jit(replace(model, guidance=3.0).predicted)(params, x, mask, y)
    np.testing.assert_allclose(guided, null + 3 * (own - null), atol=1e-4)
    assert np.abs(own - null).max() > 0.01
    np.testing.assert_allclose(jax.jit(model.predicted)(params, x, mask, y), own, atol=1e-6)


# --- text -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def writer_state():
    x = np.random.default_rng(0).integers(0, 256, (2, 12)).astype(np.int32)
    return strengthened(core.init(WRITER, core.run_key(0, core.INIT), {"x": x}), 5.0)


def test_a_text_goes_on_from_prompts_of_any_lengths_past_the_window(writer_state):
    """Each row as if it were alone; blocks see the last tokens before them: a longer prompt with the same end is
    continued alike where the window is full."""
    rows = [np.array([65]), np.arange(66, 74), np.arange(60, 74)[-12:]]
    whole = np.asarray(core.sample(WRITER, writer_state, core.sample_keys(3, 3), prompts(rows, 12)))
    assert whole.shape == (3, 12 + 16)
    for i, row in enumerate(rows):
        np.testing.assert_array_equal(whole[i, : len(row)], row)
    alone = core.sample(WRITER, writer_state, core.sample_keys(3, 3)[1:2], prompts(rows[1:2], 12))
    np.testing.assert_array_equal(alone[0, : 8 + 16], whole[1, : 8 + 16])
    # Of 12 tokens, the last 8 are seen by a block of 4.
    same = prompts([np.arange(62, 74), np.concatenate([[1, 2, 3, 4], np.arange(66, 74)])], 12)
    keys = core.fold_each(core.run_key(0, core.SAMPLE), jnp.zeros(2, jnp.int32))
    one, two = np.asarray(core.sample(WRITER, writer_state, keys, same))[:, 12:]
    np.testing.assert_array_equal(one, two)


def test_what_is_streamed_is_what_is_sampled(writer_state, tmp_path):
    run, shown = RunFolder(tmp_path), io.StringIO()
    run.keep_files({"tokenizer.json": Bytes().to_json()})
    trained = Trained(Experiment(model=WRITER, codec=Identity(), data=Text()), Identity(), writer_state, run)
    text.write_samples(trained, text.Writing("hé", 3, 2), tmp_path, shown)
    cond = prompts([Bytes().encode("hé")] * 2, 12)
    lines = np.asarray(core.sample(WRITER, writer_state, core.sample_keys(3, 2), cond))[:, : 3 + 16]
    assert shown.getvalue() == "".join(f"--- {i} ---\n{Bytes().decode(line)}\n" for i, line in enumerate(lines))


def test_blocks_larger_than_a_part_are_streamed_whole(writer_state, tmp_path):
    """Regression: 16 tokens were drawn as a block of 16, whatever `block` was; of a window of 12, wrong ones."""
    model, shown = replace(WRITER, block=6), io.StringIO()
    model = replace(model, decoding=replace(model.decoding, tokens=20))
    run = RunFolder(tmp_path)
    run.keep_files({"tokenizer.json": Bytes().to_json()})
    trained = Trained(Experiment(model=model, codec=Identity(), data=Text()), Identity(), writer_state, run)
    text.write_samples(trained, text.Writing("h", 3, 1), tmp_path, shown)
    line = np.asarray(core.sample(model, writer_state, core.sample_keys(3, 1), prompts([Bytes().encode("h")], 12)))[0]
    assert shown.getvalue() == f"{Bytes().decode(line[: 1 + 20])}\n"
    with pytest.raises(UserError, match="16 tokens were asked for, which are no whole blocks of 6"):
        page = model.begin(writer_state.params, 1, prompts([Bytes().encode("h")], 12))
        model.write(writer_state.params, page, core.sample_keys(0, 1), 0, 16)


def test_nothing_follows_the_end_token(writer_state):
    model = replace(WRITER, decoding=Decoding(tokens=16, end=7, temperature=0.0))
    params = jax.tree.map(jnp.copy, writer_state.params)
    params["network"]["bias"] = params["network"]["bias"].at[7].add(100.0)
    out = core.sample(model, writer_state.replace(params=params), core.sample_keys(0, 1), prompts([[1]], 12))
    np.testing.assert_array_equal(out[0, 1:17], 7)


# --- settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"guidance": 2.0}, "guidance is 2.0: it needs classes"),
        ({"given": 1, "num_classes": 2}, "text has no classes"),
        ({"decoding": Decoding(repetition_penalty=1.1)}, "leave it 1"),
        ({"decoding": Decoding(tokens=2)}, "codes fill the window"),
        ({"given": 3}, "none is left to be drawn"),
        ({"given": 1, "block": 2, "decoding": Decoding(keep=2)}, "choose a smaller one"),
        ({"num_classes": 3}, "no labels"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, match):
    with pytest.raises(UserError, match=match):
        model = replace(TINY, block=1, **change) if "block" not in change else replace(TINY, **change)
        core.init(model, core.run_key(0, core.INIT), {"x": WHOLE.astype(np.int32)})


def test_data_that_do_not_fit_are_refused():
    x = WHOLE.astype(np.int32)
    with pytest.raises(UserError, match=r"pass --model\.network\.window 2"):
        TINY.check({"x": x[:, :2]})
    with pytest.raises(UserError, match="token 9 is out of range"):
        TINY.check({"x": np.full((2, T), 9, np.int32)})
    with pytest.raises(UserError, match=r"pass --model\.given 1"):
        TINY.check({"x": x, "bytes": np.ones(len(x))})
