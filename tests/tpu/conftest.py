"""What libtpu asks of a machine without a TPU, so that it compiles and neither waits nor talks."""

import os

QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
for name, value in QUIET.items():
    os.environ.setdefault(name, value)
