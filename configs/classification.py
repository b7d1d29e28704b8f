"""Classes of pictures: a picture tower, published or of a run of ours, with a head of scores.

Reproduces: no published run: the pretraining's head is taken off and a new one trained with the
            tower (Dosovitskiy et al. 2021, "ViT", section 3.2), with RandAugment (Cubuk et al.
            2020); rates and steps are ours.
Command:    python train.py --config=configs/classification.py --workdir=... \
                --config.init_from=SOURCE --config.num_classes=1000 \
                --config.data.path='train-{000..009}.tar' --config.eval_data.path='val-*.tar'
            SOURCE is a CLIP, SigLIP, ViT or ResNet, published or a run of ours: docs/finetuning.md.
            A sample is a picture and its class number ('cls', or 'label' in its JSON). With
            --config.several=True it has any number of classes: 'labels', num_classes zeros and
            ones, in its JSON or as labels.npy. --config.layer_rate=0.75 trains lower layers more
            slowly.
Devices:    one GPU or v5e-8 for a base model by its memory; not run on either by us. A plan needs
            no source: --config.adopt= --plan=v5e:2x4 is of a ViT-B/16.
Expect:     nothing was measured here but the smoke form.
"""

from ml_collections import ConfigDict

from mmjax.config import spec
from mmjax.data.dataset import Dataset
from mmjax.data.datasets.scene_labels import SceneLabels, label_names
from mmjax.data.datasets.scenes import Scenes
from mmjax.data.fields import Fields
from mmjax.data.sources.fetching import Fetching
from mmjax.data.transforms.augment import RandAugment
from mmjax.data.transforms.image import RandomResizedCrop
from mmjax.data.transforms.resize import Resize
from mmjax.evaluation.classifying import Classifying
from mmjax.evaluation.objectives import Objectives
from mmjax.models.encoders.classifier import Classifier
from mmjax.models.encoders.vit import ViT, vit_b16
from mmjax.objectives.classification import Classification
from mmjax.preprocess import Contract
from mmjax.run.task_settings import task_config, warmed_up
from mmjax.training.step import Goal


def get_config(variant: str = "") -> ConfigDict:
    """The run; 'smoke' is two steps of a tiny ViT on drawn scenes."""
    smoke = variant == "smoke"
    config = task_config(smoke, 2 if smoke else 10_000, batch_size=8 if smoke else 512)
    config.adopt = "" if smoke else "classify"  # take the picture tower and its own from init_from
    config.several = False  # True: any number of classes a picture, where a model is adopted
    config.num_classes = len(label_names()) if smoke else 1000
    config.image_size = 32 if smoke else 224
    size = config.get_ref("image_size")
    small = {"dim": 32, "depth": 1, "num_heads": 2, "mlp_dim": 64, "patch_size": 8}
    how = {name: config.get_ref(name) for name in ("dtype", "remat")}
    tower = spec(ViT, image_size=size, **how, **{**vit_b16(), **(small if smoke else {})})
    config.model = spec(Classifier, image=tower, num_classes=config.get_ref("num_classes"))
    config.preprocess = spec(Contract, image_size=size)
    crop = (spec(RandAugment, num_ops=2, magnitude=9.0), spec(RandomResizedCrop, size=size))
    for name, split, scenes in (("data", "train", 64), ("eval_data", "held_out", 16)):
        made_up = spec(SceneLabels, scenes=spec(Scenes, split=split, num_scenes=scenes))
        pictures = crop if name == "data" else (spec(Resize, size=size),)
        config[name] = spec(
            Dataset,
            fetching=spec(Fetching),
            source=made_up if smoke else None,
            fields=spec(
                Fields,
                image_from="image" if smoke else "jpg;jpeg;png;webp",
                caption_from="",
                label_from="label;cls;json:label",
            ),
            transforms=pictures,
        )
    config.goals.classes = spec(Goal, objective=spec(Classification))
    config.optimizer = warmed_up(config, peak=3e-5)
    config.evaluators.objectives = spec(Objectives)
    config.evaluators.classes = spec(Classifying)
    return config
