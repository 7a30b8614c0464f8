"""Every test runs in float64, where exactness can be seen, unless it asks for less."""

import jax

jax.config.update("jax_enable_x64", True)
