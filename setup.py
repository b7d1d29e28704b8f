"""All metadata of the package; tool settings live in pyproject.toml."""

import pathlib

import setuptools

FLOORS = (  # the oldest versions that the test-suite was run on; no upper caps
    "jax>=0.10.2",
    "flax>=0.12.8",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",
    "grain>=0.2.18",
    "tensorflow-datasets>=4.9.10",
    "importlib_resources>=6.0",  # tensorflow-datasets needs it and does not say so
    "array_record>=0.8.6",
    "pyarrow>=20.0",
    "fsspec>=2025.3",
    "ml-collections>=1.1.0",
    "absl-py>=2.1",  # grain's worker processes read parsed absl flags
    "numpy>=2.0",
    "simplejpeg>=1.8",
    "opencv-python-headless>=4.10",
    "pillow>=11.0",
    "tokenizers>=0.21",
    "sentencepiece>=0.2.1",
    "safetensors>=0.5",
    "ftfy>=6.2",  # CLIP's repair of wrongly decoded text
    "jaxtyping>=0.3.11",
    "tensorboardX>=2.6",
    "rich>=13.0",
    "isal>=1.7",  # the same CRC-32 as zlib, at ten times its speed
)

setuptools.setup(
    name="mmjax",
    version="0.1.0",
    description="Train, evaluate and ship image-text models in JAX: a laptop to a TPU pod.",
    long_description=pathlib.Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=setuptools.find_packages(include=["mmjax", "mmjax.*"]),
    install_requires=FLOORS,
    entry_points={"console_scripts": ["mmjax=mmjax.__main__:main"]},
    extras_require={
        "tpu": ["jax[tpu]"],
        "cuda": ["jax[cuda13]"],
        "wandb": ["wandb>=0.31"],
        "hub": ["huggingface_hub>=0.30"],  # mmjax.load("hf://owner/name")
        "gcs": ["gcsfs"],  # shards and workdirs at gs://
        "peers": ["torch", "open_clip_torch", "transformers"],  # what benchmarks compare with
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "beartype>=0.19",
            "ruff>=0.9",
            "huggingface_hub>=0.30",
            "jax[tpu]",  # its libtpu compiles for TPUs that are not here
        ],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
    ],
)
