"""rgen: SGD itself as the sequence model.

A feed-forward network becomes an autoregressive generative model when training is its memory: predict y_t from x_t, pay the nats,
take one SGD step on (x_t, y_t), go on. The initialization is meta-learned through all those steps.

Start at `rgen.fast` (the inner loop), `rgen.networks`, `rgen.meta` and `rgen.train`. This file imports nothing, so that a command
line can answer `--help` before JAX is loaded.
"""

__version__ = "0.1.0"
