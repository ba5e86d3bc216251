"""What mmc_jax is and needs. The tools' settings are in `pyproject.toml`."""

import pathlib
import re

import setuptools

_HERE = pathlib.Path(__file__).parent
_VERSION = re.search(
    r'^__version__ = "(.+)"$',
    (_HERE / "mmc_jax" / "__init__.py").read_text(encoding="utf-8"),
    re.MULTILINE,
)[1]

# Minimum versions are the oldest that the tests have run with; `constraints.txt` pins
# the ones that `make test` and `make quickstart` install.
_REQUIRED = [
    "absl-py>=2.5",
    "chex>=0.1.92",
    "flax>=0.12.8",
    "jax>=0.10.2",
    "jinja2>=3.1.6",
    "matplotlib>=3.10",
    "ml_collections>=1.1",
    "numpy>=2.1",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",
    # tensorflow-datasets decodes images with it, and does not declare it.
    "pillow>=11",
    "scikit-learn>=1.6",
    "scipy>=1.14",
    "tensorboardX>=2.6.2.2",
    "tensorflow-datasets>=4.9.10",
    "tensorstore>=0.1.86",
    "tqdm>=4.67",
]

_TEST = [
    # Frameworks whose models ATTACKS.md attacks.
    "dm-haiku>=0.0.17",
    "equinox>=0.13.8",
    "mypy>=2.4",
    "pytest>=9.2",
    "pytest-xdist>=3.8",
    "ruff>=0.17.6",
    # Builds the wheel that the packaging test looks into; 70.1 is the first that needs
    # no separate `wheel`.
    "setuptools>=70.1",
]

setuptools.setup(
    name="mmc_jax",
    version=_VERSION,
    description=(
        "Train and honestly evaluate adversarially robust classifiers with the "
        "Max-Mahalanobis center loss, in JAX and Flax"
    ),
    long_description=(_HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    # The scripts in `configs/` and `launch/` are run from a checkout: installed, their
    # names would clash with everybody else's.
    packages=setuptools.find_packages(include=["mmc_jax", "mmc_jax.*"]),
    package_data={"mmc_jax": ["py.typed"], "mmc_jax.report": ["templates/*"]},
    zip_safe=False,
    install_requires=_REQUIRED,
    extras_require={
        # Prepares TFDS data sets that are not on disk yet; reading needs no TensorFlow.
        "tf": [
            "tensorflow-cpu>=2.20; sys_platform == 'linux'",
            "tensorflow>=2.20; sys_platform != 'linux'",
            # `download_and_prepare` imports it, and tensorflow-datasets does not
            # declare it.
            "importlib_resources>=6",
        ],
        "cuda": ["jax[cuda13]>=0.10.2"],
        "tpu": ["jax[tpu]>=0.10.2"],
        "test": _TEST,
        "dev": [*_TEST, "pre-commit>=4"],
        # torchattacks, the third peer, demands an old `requests`: the Makefile installs
        # it without its dependencies.
        "bench": ["foolbox>=3.3.4", "torch>=2.13"],
    },
    classifiers=[
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
