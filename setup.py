"""Packs the experiment scripts, which lie at the top of the checkout, into the wheel as `jaxgen.scripts`.

Everything else is in pyproject.toml.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["jaxgen*"]), "jaxgen.scripts"],
    package_dir={"jaxgen.scripts": "experiments"},
    package_data={"jaxgen": ["py.typed"], "jaxgen.data": ["emoji/*"], "jaxgen.scripts": ["results.json"]},
)
