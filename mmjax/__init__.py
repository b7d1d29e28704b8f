"""mmjax trains, evaluates and ships image-text models in JAX, from a laptop to a TPU pod.

Importing this package loads no JAX and touches no device; import the rooms you need, e.g.
``from mmjax.models.dual.two_tower import TwoTower``.
"""

__version__ = "0.1.0"
