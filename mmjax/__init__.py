"""mmjax trains, evaluates and ships image-text models in JAX, from a laptop to a TPU pod.

Importing this package loads no JAX and touches no device; import the rooms you need, e.g.
``from mmjax.models.dual.two_tower import TwoTower``. ``mmjax.load(source)`` gives a model with its
weights.
"""

import importlib

__version__ = "0.1.0"


def __getattr__(name):
    if name == "load":  # a module that can be called
        return importlib.import_module("mmjax.load")
    raise AttributeError(f"module 'mmjax' has no attribute {name!r}")
