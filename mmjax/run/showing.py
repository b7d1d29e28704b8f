"""Shows how a config's state would lie on this job's devices, and does nothing else."""

import jax
from ml_collections import ConfigDict

from mmjax.config import ConfigError, build, plain
from mmjax.parallel.layout_table import table
from mmjax.parallel.mesh import check_batch, make_mesh
from mmjax.run.shapes import recipe_and_shapes
from mmjax.training.compiled import Compiled


def show_sharding(config: ConfigDict) -> str:
    """The table of `--show-sharding`: shapes alone are made, no array and no folder.

    Raises:
      ConfigError: a mesh, batch or rule that a run would refuse as well.
    """
    try:
        recipe, shapes = recipe_and_shapes(config)
        mesh = make_mesh(**plain(config.mesh))
        for words in shapes.values():
            check_batch(words["valid"][0][0], mesh, jax.process_count())
        rules = build(config.sharding_rules)
        compiled = Compiled(recipe, mesh, shapes, rules, config.whole_above_bytes)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return table(compiled.layout, mesh)
