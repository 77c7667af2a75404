"""Times GPT's compiled generation beside transformers' cached `generate` with the same weights.

    python benchmarks/gpt_generate.py                      # batches of 8 and 1, 256 new tokens, 6 layers of 384
    python benchmarks/gpt_generate.py --batches 32 --tokens 64

Both take the likeliest token, from parameters of step 0; `different` counts the tokens in which rounding made them
write another. Takes a minute on two cores. The time to compile is told apart.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import common
import jax
import numpy as np

from jaxgen import core
from jaxgen.cli import parse
from jaxgen.core.flops import flops
from jaxgen.models.gpt import GPT, prompts
from jaxgen.nets.gpt import TokenTransformer
from jaxgen.nets.transformer import Transformer
from jaxgen.ops.decoding import Decoding


@dataclass(frozen=True)
class Options:
    batches: tuple[int, ...] = (8, 1)
    """Texts at a time."""
    tokens: int = 256
    """New tokens of each."""
    prompt: int = 16
    """Tokens of the prompts."""
    width: int = 384
    depth: int = 6
    heads: int = 6
    vocab: int = 256
    calls: int = 3
    """Turns of each side."""
    peer: bool = True
    """Time transformers beside, as it is and by torch.compile."""
    quick: bool = False
    """Ratios within two minutes a row: fewer and shorter calls, and no compiled peer."""
    out: str = ""
    """JSON file; benchmarks/results/gpt-generate.json when empty."""


def measure(options: Options, batch: int, matmul: float) -> common.Row:
    """Both sides at one batch size."""
    case = f"batch {batch}"
    body = Transformer(width=options.width, depth=options.depth, heads=options.heads, causal=True)
    network = TokenTransformer(vocab=options.vocab, window=options.prompt + options.tokens, body=body)
    model = GPT(network=network, decoding=Decoding(temperature=0, tokens=options.tokens))
    state = core.init(model, jax.random.key(0), {"x": np.zeros((1, 2), np.int32)})
    rng = np.random.default_rng(0)
    rows = rng.integers(0, options.vocab, (batch, options.prompt))
    cond, keys = prompts(list(rows), network.window), core.sample_keys(0, batch)
    program, seconds = common.compiled(core.sample_program, model, state, keys, cond, None, case=case)
    work = flops(lambda *args: core.sample(model, *args), state, keys, cond)
    texts: dict[str, np.ndarray] = {}

    def ours() -> None:
        texts["ours"] = np.asarray(program(state, keys, cond, None))[:, : options.prompt + options.tokens]

    sides, reason = {"ours": ours}, "no peer was asked for"
    if options.peer:
        from peers import use_all_cores
        from peers.gpt import generate, hugging_face

        use_all_cores()
        params = jax.device_get(state.params)

        def writes(name: str, compiled: bool) -> Callable[[], None]:
            theirs = hugging_face(model, params)
            if compiled:
                theirs.compile(dynamic=True)  # its cache grows by a token a call

            def call() -> None:
                texts[name] = generate(theirs, rows, options.tokens)

            return call

        sides["transformers"], reason = writes("transformers", False), common.LEFT_OUT
        if not options.quick:
            name = "torch.compile transformers"
            reason = common.tried(case, name, sides, lambda: writes(name, True))
    measured = common.in_turns(sides, options.calls, case, options.quick)
    ms = {side: common.summary(times) for side, times in measured.items()}
    total = batch * options.tokens
    return {
        "batch": batch,
        "new_tokens": options.tokens,
        "prompt": options.prompt,
        "params": core.count_params(state.params),
        "compile_seconds": seconds,
        "flops_per_batch": work,
        "ms_per_batch": ms,
        "ms_per_token": ms["ours"]["median"] / options.tokens,
        "tokens_per_second": {side: 1000 * total / each["median"] for side, each in ms.items()},
        "matmul_share": 1000 * work / ms["ours"]["median"] / matmul,
        "different": int(np.sum(texts["ours"] != texts["transformers"])) if options.peer else None,
        "ratio": common.time_ratio(ms, "transformers", "ours"),
        "compiled": reason or "torch.compile transformers",
        "compiled_ratio": common.time_ratio(ms, "torch.compile transformers", "ours"),
    }


COLUMNS = {
    "batch": lambda r: str(r["batch"]),
    "params": lambda r: f"{r['params']:,}",
    "compile s": lambda r: f"{r['compile_seconds']:.1f}",
    "ms/token": lambda r: common.ms(r["ms_per_token"]),
    "tokens/s": lambda r: f"{r['tokens_per_second']['ours']:,.0f}",
    "transformers": lambda r: f"{r['tokens_per_second'].get('transformers', 0):,.0f}",
    "different": lambda r: str(r["different"]),
    "theirs/ours": lambda r: "" if r["ratio"] is None else f"{r['ratio']:.2f}",
}


def main(args: Sequence[str] | None = None) -> None:
    options = parse.parse(Options, Options(), sys.argv[1:] if args is None else args, "gpt_generate.py", __doc__)
    common.use_devices(1)
    rows = common.rows(options.out or common.RESULTS / "gpt-generate.json", "gpt generation", COLUMNS, options)
    for batch in options.batches:
        rows.add(f"batch {batch}", lambda batch=batch: measure(options, batch, rows.matmul))
    rows.finish(f"generation of {options.tokens} tokens, {options.depth} layers of {options.width}")


if __name__ == "__main__":
    parse.run(main)
