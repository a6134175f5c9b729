"""Loaded into the process that children are forked from: what the first run in a process does once, done beforehand."""

from __future__ import annotations

import pandas
import torch
from torch import nn

from blip_bootstrap.config import load_config
from blip_pipelines.ingest.pictures import Stored, store_web
from blip_training.train.schedule import make_optimizer
from tests.support import small_loop, tiny_pipeline

torch.set_num_threads(1)
layer = nn.Linear(1, 1)
layer.weight.grad = layer.weight.detach()
make_optimizer(layer, load_config(None).pretrain.optimizer).step()
store_web(tiny_pipeline.encode(0), 10**6, Stored(64, "keep_ratio"))
assert small_loop.BLOCK_ROWS
assert pandas.__version__  # which pyarrow imports when it first makes Python values
