"""Families of generative models on one data set under equal budgets, on one page.

    python experiments/compare.py digits                      # three seeds of 26 families: an hour or two of two cores
    python experiments/compare.py mnist --budget 20min --seeds 1 --data-dir DIR
    python experiments/compare.py digits --families vae dcgan ddpm --budget 20s

Each family trains its preset of the data set's name for `budget` of CPU time (of the clock on a GPU or TPU), compiling
aside: its number of steps follows from the speed of a step here, and its schedules from that. Samples of all are
scored by the features of one classifier, and again by those of another. A stopped command goes on where it was. The
page is OUT/report.html, its numbers OUT/comparison.json.
"""

from pathlib import Path

from jaxgen.cli.families import main

if __name__ == "__main__":
    main(__doc__, Path(__file__).resolve().parent)
