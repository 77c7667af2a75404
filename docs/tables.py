"""Markdown tables of whole files of benchmarks/results, for the placeholders of docs/figures.py."""

from typing import Any


def plans_table(plans: dict[str, Any]) -> str:
    """A Markdown table of plans, a row for each."""
    rows = ["| preset | machine | mesh | fits | GiB a device | a step at best | of peak | compiled in |",
            "|---|---|---|---|---:|---:|---:|---:|"]  # fmt: skip
    for name, plan in sorted(plans.items()):
        train = plan["programs"]["train"]
        bound = train.get("bound")
        least = f"{bound['seconds'] * 1e3:.3g} ms | {bound['share_of_peak']:.0%}" if bound else "|"
        what = ", ".join([plan["mesh"] or "one", *(["remat"] if plan["remat"] else [])])
        parts = f" in {plan['accumulate']}" if plan["accumulate"] > 1 else ""
        used = f"{train['memory']['needed'] / 2**30:.1f} of {plan['memory_of_a_device'] / 2**30:.0f}"
        rows.append(
            f"| {name}, batch {plan['batch_size']}{parts} | {plan['machine']} | {what} | "
            f"{'yes' if train['fits'] else 'no'} | {used} | {least} | {train['compile_seconds']:.0f} s |"
        )
    return "\n".join(rows)


def scaling_table(plans: dict[str, Any]) -> str:
    """A Markdown table of weak scaling, a row for each number of devices; growth is that against the first row of a
    name."""
    rows = ["| what | machine | mesh | batch | GiB a device | a step at best | a device sends | of arrays |",
            "|---|---|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    first: dict[str, dict[str, Any]] = {}
    for name, row in sorted(plans.items(), key=lambda item: (item[0].rpartition(",")[0], item[1]["batch_size"])):
        base = first.setdefault(name.rpartition(",")[0], row)
        sent, arrays = (
            f"{row[of] / 1e9:.2f} GB" + (f" ({row[of] / base[of] - 1:+.1%})" if row is not base else "")
            for of in ("sent_of_a_step", "arrays_of_a_step")
        )
        step = f"{row['bound']['seconds'] * 1e3:.3g} ms" if row["bound"] else ""
        rows.append(
            f"| {name.rpartition(',')[0]} | {row['machine']} | {row['mesh']} | {row['batch_size']:,} | "
            f"{row['memory'] / 2**30:.1f} | {step} | {sent} | {arrays} |"
        )
    return "\n".join(rows)


def speed_table(found: dict[str, Any]) -> str:
    """A Markdown table of ratios to PyTorch, with their geometric means."""
    rows = ["| what | PyTorch as it is | by torch.compile |", "|---|---:|---:|"]
    means = {"case": "geometric mean", **found["geometric_means"]}
    for row in (*found["results"], means):
        ratios = (f"{row[of]:.2f}" if row[of] else "" for of in ("peer_ratio", "compiled_ratio"))
        rows.append("| " + " | ".join((row["case"], *ratios)) + " |")
    return "\n".join(rows)


def estimate(number: dict[str, float] | None, form: str = ".3g") -> str:
    """A mean with the half-width of its interval, where there is one."""
    if number is None:
        return ""
    half = f" ± {number['ci95']:.2g}" if number.get("ci95") else ""
    return f"{number['mean']:{form}}{half}"


def families_table(found: dict[str, Any]) -> str:
    """Scores of a comparison of families, the nearest to the data first."""
    names = {"fd": "Fréchet distance", "fd_other": "by the other judge", "precision": "precision", "recall": "recall",
             "coverage": "coverage", "rarest_class": "rarest class", "bits_per_dim": "bits/dim", "ppl": "path length",
             "parameters": "parameters", "steps": "steps"}  # fmt: skip
    rows = ["| family | " + " | ".join(names.values()) + " | seen |", "|---" + "|---:" * len(names) + "|---|"]
    if real := found["held_out_pictures"]:
        here = {**real["cnn"], "fd_other": real["mlp"]["fd"]}
        cells = [f"{here[name]:.3g}" if name in here else "" for name in names]
        rows.append("| held-out pictures | " + " | ".join(cells) + " | |")
    for row in found["families"]:
        told = " (told classes)" if row["told_classes"] else ""
        cells = [estimate(row.get(name), ",.0f" if name in ("parameters", "steps") else ".3g") for name in names]
        rows.append(f"| {row['family']}{told} | " + " | ".join(cells) + f" | {', '.join(row['failures'])} |")
    return "\n".join(rows)


def samplers_table(found: dict[str, Any]) -> str:
    """Compiled samplers of the families of a comparison, the fastest first."""
    names = {"samples_per_second": ("samples/s", ",.3g"), "evaluations": ("evaluations", ".0f"),
             "sampler_compile_seconds": ("compiled in, s", ".2g"), "sampler_mib": ("MiB", ".3g"),
             "fd": ("Fréchet distance", ".3g")}  # fmt: skip
    rows = ["| family | " + " | ".join(name for name, _ in names.values()) + " |", "|---" + "|---:" * len(names) + "|"]
    for row in sorted(found["families"], key=lambda row: -row["samples_per_second"]["mean"]):
        cells = [f"{row[name]['mean']:{form}}" for name, (_, form) in names.items()]
        rows.append(f"| {row['family']} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def claims_table(found: dict[str, Any]) -> str:
    """What documents assert of families beside what was measured."""
    rows = ["| what is said | here | measured |", "|---|---|---|"]
    for claim in found["claims"]:
        values = ", ".join(f"{kind} {value:.3g}" for kind, value in claim["measured"].items())
        holds = "holds" if claim["holds"] else "does not hold"
        rows.append(f"| {claim['claim']} | {holds} | {claim['by']}: {values} |")
    return "\n".join(rows)


def ablations_table(found: dict[str, Any]) -> str:
    """Every study's variants, with the means of their numbers over seeds."""
    rows = ["| what is said | variant | numbers |", "|---|---|---|"]
    before = ""
    for row in found["over_seeds"]:
        numbers = ", ".join(f"{n.replace('_', ' ')} {estimate(v)}" for n, v in row.items() if isinstance(v, dict))
        claim = "" if row["study"] == before else found["claims"][row["study"]]
        before = row["study"]
        rows.append(f"| {claim} | {row['variant']} | {numbers} |")
    return "\n".join(rows)


def presets_table(found: dict[str, Any]) -> str:
    """Presets run to their ends."""
    rows = ["| preset | parameters | steps | minutes | on held-out data | Fréchet distance | recall | W2 of points |",
            "|---|---:|---:|---:|---|---:|---:|---:|"]  # fmt: skip
    for row in sorted(found["results"], key=lambda row: row["case"]):
        numbers = ", ".join(f"{name.replace('_', ' ')} {v['mean']:.4g}" for name, v in row["held_out"].items())
        if limit := row.get("held_out_limit"):
            numbers += f" (first {limit:,})"
        fd, recall = (f"{row['scores'][name]:.3g}" if name in row["scores"] else "" for name in ("fd", "recall"))
        minutes = (row["cpu_seconds"] or row["seconds"]) / 60
        chosen = f"{row['best_step']:,}\\* of " if row.get("best_step") else ""
        size = f"{row['parameters']:,} | {chosen}{row['steps']:,} | {minutes:.1f}"
        points = f"{row['scores']['w2']:.3f} ({row['scores']['w2_real']:.3f})" if "w2" in row["scores"] else ""
        rows.append(f"| {row['case']} | {size} | {numbers} | {fd} | {recall} | {points} |")
    return "\n".join(rows)


def restoration_table(found: dict[str, Any]) -> str:
    """Degraded pictures restored: PSNR of each estimate, the gain over the better simple one, classes recognised."""
    names = ("simple", "linear", "sample", "mean")
    rows = ["| task | simple estimate | best linear one | one sample | mean of samples | gain | class recognised |",
            "|---|---:|---:|---:|---:|---:|---:|"]  # fmt: skip
    for row in found["results"]:
        numbers = " | ".join(f"{row['psnr'][name]['mean']:.2f}" for name in names)
        gain = f"{row['gain']['mean']:.2f} ± {row['gain']['ci95']:.2f}"
        seen = f"{row['named']['linear']:.0%} to {row['named']['mean']:.0%}".replace("%", " %")
        rows.append(f"| {row['task']} | {numbers} | {gain} | {seen} |")
    return "\n".join(rows)


def percent(number: dict[str, float]) -> str:
    """A share with the half-width of its interval, in percent."""
    half = number.get("ci95") or 1.96 * number.get("stderr", 0.0)
    return f"{100 * number['mean']:.1f}" + (f" ± {100 * half:.1f}" if half else "") + " %"


def anomaly_table(found: dict[str, Any]) -> str:
    """The area under the ROC curve of each baseline and family, the best first."""
    rows = ["| score by | area | of the worst class |", "|---|---:|---:|"]
    for row in sorted(found["results"], key=lambda row: -row["mean"]):
        by = f"{row['case']}{', simple' if row.get('baseline') else ''}"
        rows.append(f"| {by} | {estimate(row)} | {min(row['auroc']):.3f} |")
    return "\n".join(rows)


def accuracy_table(found: dict[str, Any]) -> str:
    """The accuracy of a classifier in each case."""
    rows = [f"| {row['case']} | {percent(row['accuracy'])} |" for row in found["results"]]
    return "\n".join(["| pictures | accuracy |", "|---|---:|", *rows])


def latents_table(found: dict[str, Any]) -> str:
    """PSNR of answers by codes beside simple ones."""
    rows = ["| asked | by codes | by pixels | left as it is | gain | true picture coded and drawn |",
            "|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    for row in found["results"]:
        numbers = [f"{row['psnr'][name]['mean']:.1f}" for name in ("codes", "pixels", "given")]
        gain, most = estimate(row["gain"], ".1f"), f"{row['psnr']['rebuilt']['mean']:.1f}"
        rows.append("| " + " | ".join([row["case"], *numbers, gain, most]) + " |")
    return "\n".join(rows)


def styles_table(found: dict[str, Any]) -> str:
    """Whose class mixed styles have."""
    rows = ["| mixed | class of the first | of the second | classifier sure |", "|---|---:|---:|---:|"]
    for row in found["results"]:
        shares = " | ".join(percent(row[name]) for name in ("first", "second", "sure"))
        rows.append(f"| {row['case']} | {shares} |")
    return "\n".join(rows)


def enlarging_table(found: dict[str, Any]) -> str:
    """Pictures enlarged."""
    rows = ["| by | PSNR, dB | SSIM | Fréchet distance | class recognised |", "|---|---:|---:|---:|---:|"]
    for row in found["results"]:
        numbers = f"{estimate(row['psnr'], '.2f')} | {estimate(row['ssim'])} | {row['fd']:.2f}"
        rows.append(f"| {row['case']} | {numbers} | {100 * row['recognised']:.0f} % |")
    return "\n".join(rows)


def prior_table(found: dict[str, Any]) -> str:
    """How often captions are found again in pictures of embeddings, by where the embeddings come from."""
    rows = ["| embedding from | cosine with the picture's | R@1 | R@10 |", "|---|---:|---:|---:|"]
    for row in found["results"]:
        if row["part"] == "retrieval":
            shares = " | ".join(percent(row[f"text_to_image_{k}"]) for k in ("r1", "r10"))
            cosine = None if row["case"] == "picture embedding" else row.get("cosine_with_picture")
            rows.append(f"| {row['case']} | {estimate(cosine)} | {shares} |")
    return "\n".join(rows)


def levels_table(found: dict[str, Any]) -> str:
    """PSNR and Fréchet distances of small pictures enlarged, by the level of noise."""
    rows = ["| enlarged by | PSNR, dB | Fréchet distance, held-out pictures | pictures drawn |", "|---|---:|---:|---:|"]
    for row in found["results"]:
        if row["part"] == "levels":
            kinds = [next(v for k, v in row.items() if k.startswith(f"fd_of_{of}")) for of in ("held_out", "drawn")]
            distances = " | ".join(map(estimate, kinds))
            rows.append(f"| {row['case']} | {estimate(row['psnr'], '.1f')} | {distances} |")
    return "\n".join(rows)


def objects_table(found: dict[str, Any]) -> str:
    """Objects made of prompts, by the CLIP that did not teach them and by the one that did."""
    rows = ["| prompt | views retrieved by an unseen CLIP | by the teacher | rank among all names, unseen CLIP | s |",
            "|---|---:|---:|---:|---:|"]  # fmt: skip
    for row in found["results"]:
        judge, taught = row["judge"], row.get("teacher")
        by = f"{100 * taught['retrieved']:.0f} %" if taught else ""
        rank = f"{judge['median_rank'] + 1:.0f} of {judge['names']:,}"
        rows.append(
            f"| {row['case']} | {100 * judge['retrieved']:.0f} % | {by} | {rank} | {row['training_seconds']:.0f} |"
        )
    return "\n".join(rows)


def sounds_table(found: dict[str, Any]) -> str:
    """How many sounds are of the class they were asked for."""
    rows = ["| sound | clips | of their class |", "|---|---:|---:|"]
    rows += [f"| {row['sound']} | {row['num']:,} | {100 * row['accuracy']:.0f} % |" for row in found["results"]]
    return "\n".join(rows)


def vocoders_table(found: dict[str, Any]) -> str:
    """Sound from the mels of held-out clips."""
    rows = ["| sound | steps | log mel, nats | MCD, dB | words not recognised | CPU s for a second |",
            "|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    for row in found["results"]:
        wrong = percent(row["word_error_rate"]) if "word_error_rate" in row else ""
        spent = f"{row['cpu_seconds_a_second']:.2g}" if "cpu_seconds_a_second" in row else ""
        steps = f"{row['steps']:,}" if "steps" in row else ""
        distances = f"{row['log_mel_l1']:.2f} | {row['mel_cepstral_distortion']:.1f}"
        rows.append(f"| {row['vocoder']} | {steps} | {distances} | {wrong} | {spent} |")
    return "\n".join(rows)


def few_steps_table(found: dict[str, Any]) -> str:
    """Fréchet distance and recall by the number of network evaluations, a row for each run."""
    counts = sorted({point["evaluations"] for point in found["points"]})
    heads = " | ".join(str(n) for n in counts)
    rows = [f"| evaluations a sample | {heads} |", "|---" + "|---:" * len(counts) + "|"]
    for run in dict.fromkeys(point["run"] for point in found["points"]):
        there = {point["evaluations"]: point for point in found["points"] if point["run"] == run}
        cells = [f"{there[n]['distance']:.2f} ({there[n]['recall']:.2f})" if n in there else "" for n in counts]
        rows.append(f"| {run.rsplit('-', 1)[0]} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def one_step_table(found: dict[str, Any]) -> str:
    """How far maps of few steps are from the ODE's."""
    rows = ["| run | evaluations | error of the map | Wasserstein distance to data |", "|---|---:|---:|---:|"]
    for row in found["results"]:
        name, _, _ = row["case"].partition(",")
        error = f"{100 * row['error']:.1f} %" if row["error"] else ""
        rows.append(f"| {name.rsplit('-', 1)[0]} | {row['evaluations']} | {error} | {row['w2']:.3f} |")
    return "\n".join(rows)


def text_priors_table(found: dict[str, Any]) -> str:
    """Nats of held-out text, and of drawn texts by the GPT."""
    rows = ["| | parameters | windows seen | nats a character | of its texts, by GPT |", "|---|---:|---:|---:|---:|"]
    for row in found["results"]:
        cells = [""] * 4
        if "held_out" in row:
            nats = row["held_out"]["nats_per_token"]["mean"]
            cells[:3] = f"{row['parameters']:,}", f"{row['windows']:,}", f"{'at most ' * row['bound']}{nats:.3f}"
        if "nats_by_gpt" in row:
            cells[3] = f"{row['nats_by_gpt']:.2f}"
        rows.append("| " + " | ".join([row["case"], *cells]) + " |")
    return "\n".join(rows)


def optimizers_table(found: dict[str, Any]) -> str:
    """Held-out numbers of optimizers at equal steps."""
    rows = ["| preset | optimizer | rate | steps | held out | minutes |", "|---|---|---:|---:|---:|---:|"]
    for row in found["results"]:
        number = estimate(row["numbers"][row["metric"]], ".4f")
        edge = ", an end of the grid" if row["edge"] else ""
        rows.append(
            f"| {row['name']} | {row['optimizer']} | {row['rate']:.2g}{edge} | {row['steps']:,} | {number} | "
            f"{row['seconds'] / 60:.1f} |"
        )
    return "\n".join(rows)


def averages_table(found: dict[str, Any]) -> str:
    """Averages of a run's parameters by their length: how well they are made afterwards, and what they score."""
    (result,) = found["results"]
    rows = ["| length | made afterwards, off by | held-out error | Fréchet distance |", "|---|---:|---:|---:|"]
    for error, distance in zip(result["error_by_length"], result["distance_by_length"], strict=True):
        length = f"{error['length']:g}" if error["length"] else "none"
        made = result["made_afterwards"].get(length)
        off = f"{made['apart']:.1e}" if made else ""
        rows.append(f"| {length} | {off} | {error['value']:.4f} | {distance['value']:.2f} |")
    return "\n".join(rows)


TABLES = {
    "anomaly": anomaly_table, "accuracy": accuracy_table, "latents": latents_table, "styles": styles_table,
    "enlarging": enlarging_table, "objects": objects_table, "prior": prior_table, "levels": levels_table,
    "sounds": sounds_table, "vocoders": vocoders_table, "restoration": restoration_table,
    "plans": plans_table, "scaling": scaling_table, "speed": speed_table, "families": families_table,
    "samplers": samplers_table, "claims": claims_table, "ablations": ablations_table, "presets": presets_table,
    "few_steps": few_steps_table, "one_step": one_step_table, "text_priors": text_priors_table,
    "optimizers": optimizers_table, "averages": averages_table,
}  # fmt: skip
