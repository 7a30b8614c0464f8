"""rgen: SGD itself as the sequence model.

A feed-forward network becomes an autoregressive generative model when training is its memory: predict y_t from x_t, pay the nats,
take one SGD step on (x_t, y_t), go on. The initialization is meta-learned through all those steps.

>>> import jax, jax.numpy as jnp, numpy as np, rgen
>>> from flax import linen as nn
>>> network = nn.Sequential((nn.Embed(6, 8), nn.relu, nn.Dense(3)))  # position 0..5 -> logits of 3 symbols
>>> loop = rgen.InnerLoop(network, rgen.Categorical(), rate=0.1)
>>> y = np.random.default_rng(0).integers(3, size=(4, 6))  # four sequences of six symbols
>>> seqs = rgen.Sequence(x=np.arange(6)[None], y=y, weight=np.ones(y.shape))  # the same positions for all
>>> params = loop.init(jax.random.key(0), seqs.x[0, 0])
>>> nats, gradient = jax.jit(rgen.maml, static_argnums=0)(loop, params, seqs)  # mean nats per sequence; a gradient for optax
>>> jax.tree.structure(gradient) == jax.tree.structure(params)
True
>>> rgen.score(loop, params, seqs).shape  # nats of each symbol, paid before it is learned
(4, 6)
>>> rgen.sample(loop, params, seqs.x, jax.random.split(jax.random.key(1), 10)).y.shape
(10, 6)

The names in `__init__.pyi` are loaded when they are asked for, so that a command line can answer `--help` before JAX is.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
