"""TensorFlow Datasets read at random without TensorFlow.

`prepare` builds a dataset as ArrayRecord files, `TFDS` reads it. Neither needs TensorFlow as long
as the dataset's own builder does not (it gives pictures as encoded files, not as arrays); reading
does without the builder.
"""

from mmjax.data.sources import base, patterns

__all__ = ["TFDS", "prepare"]


class TFDS(base.Source):
    """One split, or a slice of one, of a dataset that was prepared as ArrayRecord files.

    A record's members are the dataset's features by name. Pictures stay encoded and texts UTF-8
    bytes, everything else is as TFDS gives it; so `Fields(image_from='image',
    caption_from='caption')` is what usually follows.

    Args:
      name: the dataset, with configuration and version if there are several: 'name',
        'name/config', 'name/config:1.0.0'.
      split: a split or slices of it, such as 'train', 'train[10%:20%]', 'train[:500]+validation'.
      data_dir: the folder that datasets are prepared in, '' for TFDS's own (~/tensorflow_datasets).

    Raises:
      ValueError: no such dataset or split, or it was prepared in another file format.
    """

    def __init__(self, name: str, split: str, data_dir: str = ""):
        import tensorflow_datasets as tfds  # takes a second: only those who use it pay

        if data_dir:
            patterns.refuse_address(data_dir)
        try:
            builder = tfds.core.read_only_builder.builder_from_files(
                name, data_dir=data_dir or None
            )
        except tfds.core.registered.DatasetNotFoundError:
            raise ValueError(
                f"No dataset {name!r} was prepared in {data_dir or 'the folder of TFDS'!r}; do so "
                "with mmjax.data.sources.tfds.prepare."
            ) from None
        image = tfds.features.Image
        pictures = [key for key, feature in builder.info.features.items() if type(feature) is image]
        skip = {key: tfds.decode.SkipDecoding() for key in pictures}
        try:
            self._data = builder.as_data_source(split, decoders=skip)
        except NotImplementedError:
            raise ValueError(
                f"{name!r} was prepared as {builder.info.file_format.value} files, which cannot be "
                "read at random; prepare it again with mmjax.data.sources.tfds.prepare."
            ) from None
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"Split {split!r} of {name!r} cannot be read ({str(error).splitlines()[0]}); its "
                f"splits are {', '.join(builder.info.splits)}."
            ) from None
        if not len(self._data):
            raise ValueError(f"Split {split!r} of {name!r} holds no samples.")
        self._name, self._split = builder.info.full_name, split
        self._shards = {key: info.shard_lengths for key, info in builder.info.splits.items()}
        self._bytes = {key: info.num_bytes for key, info in builder.info.splits.items()}

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, position: int) -> base.Record:
        if not 0 <= position < len(self._data):
            raise IndexError(f"Sample {position} of {len(self._data):,} was asked for.")
        key = f"{self._name}/{self._split}/{position}"
        try:
            features = self._data[position]
        except (OSError, RuntimeError) as error:
            cause = "checksum" if "hash mismatch" in str(error) else "read"
            raise base.BadSample(cause, f"{key}: {str(error)[:200]}") from None
        return {"__key__": key, **features}

    def fingerprint(self) -> str:
        return base.digest(["TFDS", self._name, self._split, len(self), self._shards, self._bytes])

    def describe(self) -> str:
        return f"{self._name} {self._split}, {len(self):,} samples"


def prepare(name: str, data_dir: str = "") -> str:
    """Builds a dataset as ArrayRecord files, which may download what its builder asks for.

    Args:
      name: a dataset that TFDS knows, 'name/config:version'. A builder of your own is known as
        soon as its package is imported.
      data_dir: the folder to prepare it in, '' for TFDS's own.

    Returns:
      The dataset's full name, with configuration and version.
    """
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=data_dir or None, file_format="array_record")
    builder.download_and_prepare()
    return builder.info.full_name
