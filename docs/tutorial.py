"""A tutorial of rgen: own data, own network, training, a look inside, samples, completions, an export, and the command line.

`# %%` begins a cell: VS Code, PyCharm and Spyder run them one by one, and `jupytext --to notebook docs/tutorial.py` makes a notebook.
As a whole, from any folder: python docs/tutorial.py. It takes about a minute on 2 CPU cores and writes to the folder `tutorial` there.
Comments that begin with "Expect" say about what is printed.
"""

# %% The data: a word of four letters, said four times
# Models of this kind are good at remembering. In each line the first word is a surprise, and the others are not.
import subprocess
import sys
from pathlib import Path

import jax
import jax.export
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import linen as nn

import rgen
from rgen.sampling import Sampler
from rgen.sampling.export import export

OUT = Path("tutorial")
OUT.mkdir(exist_ok=True)
LETTERS = "abcdefgh "
WORD, TIMES = 4, 4
T = (WORD + 1) * TIMES - 1


def all_lines() -> np.ndarray:
    """Symbols [8 ** WORD, T], numbers of letters in LETTERS: every word once, in a random order."""
    words = np.indices((8,) * WORD).reshape(WORD, -1).T
    spaced = np.pad(words, ((0, 0), (0, 1)), constant_values=LETTERS.index(" "))
    return np.random.default_rng(0).permutation(np.tile(spaced, (1, TIMES))[:, :T])


def text(row: np.ndarray) -> str:
    return "".join(LETTERS[symbol] for symbol in row)


def sequences(y: np.ndarray | jax.Array) -> rgen.Sequence:
    """Inputs are the places 0 .. T - 1, the same for all lines; every step is scored and learned from."""
    return rgen.Sequence(x=np.arange(T)[None], y=y, weight=np.ones(y.shape, np.float32))


train, test = np.split(all_lines(), [-200])  # test words are never trained on
print("Three lines:", *map(text, train[:3]), sep="\n  ")
# All words are equally likely, so a model without memory pays at least ln 8 = 2.08 nats for each of the 16 letters, 33.3 per line. With a
# perfect memory the first word costs 4 ln 8 = 8.3 nats, and the rest nothing.


# %% The network: one place in, logits out
# It sees no batch, no time, and none of the earlier letters. The one layer that learns in the inner loop is its memory. Two positions
# share what was learned to the extent that their keys are similar. The keys are learned in the outer loop.
class Net(nn.Module):
    @nn.compact
    def __call__(self, place: jax.Array) -> jax.Array:
        keys = nn.LayerNorm()(nn.Embed(T, 32)(place))
        return nn.Dense(len(LETTERS), name="memory")(keys)


loop = rgen.InnerLoop(Net(), rgen.Categorical(), rate_kind="rank-one", rate=0.1, fast=("memory",))
print(rgen.check(loop, np.arange(T)))
# Expect "The forms agree": the fast dual form computes what the definition does, and memory/kernel is taken over by it.


# %% Training: MAML with any optax optimizer
# rgen.maml gives the mean nats per line, and their gradient through all inner steps, for the initialization and the inner rates.
params = loop.init(jax.random.key(0), np.arange(T)[0])
optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(2e-2, 400)))
state = optimizer.init(params)


@jax.jit
def outer_step(params: rgen.Params, state: optax.OptState, y: jax.Array) -> tuple:
    nats, gradient = rgen.maml(loop, params, sequences(y))
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, nats


rng = np.random.default_rng(1)
for step in range(401):
    params, state, nats = outer_step(params, state, train[rng.integers(len(train), size=64)])
    if step % 100 == 0:
        print(f"outer step {step}: {float(nats):.1f} nats per line")
# Expect about 50 at first, and 8.3 from step 200 on.


# %% Scoring: exact nats of lines that were not trained on
paid = np.asarray(rgen.score(loop, params, sequences(test)))  # [200, T], each paid before its letter is learned
words = paid[:, np.arange(T) % (WORD + 1) < WORD].reshape(-1, TIMES, WORD).sum(2).mean(0)
print(f"test: {paid.sum(1).mean():.1f} nats per line; by word:", *(f"{nats:.2f}" for nats in words))
# Expect 8.3 nats for the first word, which nobody can know, and 0.00 for the others: one SGD step each has stored its letters.


# %% A look inside: what each step taught the network about all places
# Between two inner steps the network can be evaluated at every position. Each picture is a moment: positions across, letters down. While
# the first word is learned, the same letters become likely at the same position of the words to come.
believed = np.exp(rgen.belief(loop, params, sequences(test[:1]), np.arange(T)))[0]  # [1 + T, T, letters]
moments = (0, 2, 4, T)
figure, axes = plt.subplots(len(moments), 1, figsize=(6, 7), layout="constrained")
for axis, moment in zip(axes, moments):
    axis.imshow(believed[moment].T, cmap="Reds", vmin=0, vmax=1)
    axis.set(title=f"after {moment} letters of '{text(test[0])}'", yticks=range(len(LETTERS)), yticklabels=list(LETTERS), xticks=[])
figure.savefig(OUT / "belief.png")
plt.close(figure)
print(f"After one word, probability of the right letters in the next: {believed[4, range(5, 9), test[0, 5:9]].min():.2f} or more")
# Expect more than 0.99.


# %% Samples: the network learns from each letter as soon as it has drawn it
drawn = np.asarray(rgen.sample(loop, params, np.arange(T)[None], jax.random.split(jax.random.key(1), 200)).y)
consistent = np.mean([len(set(text(row).split(" "))) == 1 for row in drawn])
print("Drawn:", *map(text, drawn[:5]), f"{consistent:.0%} of 200 say one word four times", sep="\n  ")
# Expect nearly all.


# %% Completions: what is known is learned first, then the rest is drawn
known = np.arange(T)[None] < WORD + 1
given = rgen.Given(y=np.where(known, test[:5], 0), known=np.broadcast_to(known, (5, T)))
completed = np.asarray(rgen.complete(loop, params, np.arange(T)[None], given, jax.random.split(jax.random.key(2), 5)).y)
print("Completed:", *(f"{text(row[:5])}| {text(row[5:])}" for row in completed), sep="\n  ")
# Expect the first word three more times.


# %% Export: a file that draws samples anywhere JAX runs, without rgen
(OUT / "words.bin").write_bytes(export(Sampler(loop, (T,)), params))
elsewhere = jax.export.deserialize(bytearray((OUT / "words.bin").read_bytes()))
exported, _ = elsewhere.call(np.uint32(0), np.arange(3, dtype=np.int32))  # a seed, and which samples
print("From the file:", *map(text, np.asarray(exported)), sep="\n  ")


# %% The same from the command line, with a network of rgen's own
# In a shell these are `rgen train ...` and so on. All it needs is a file of lines; a preset brings the network and the outer loop.
def command(*words: str) -> None:
    print("$ rgen", *words, flush=True)
    subprocess.run([sys.executable, "-c", "from rgen.commands import main; main()", *words], check=True)


(OUT / "words.txt").write_text("".join(text(row) + "\n" for row in train))
RUN = str(OUT / "run")
command("train", "names-heads", "--data", str(OUT / "words.txt"), "--max-length", str(T + 1), "--steps", "300", "--run", RUN, "--resume")
command("evaluate", "--run", RUN)
command("sample", "--run", RUN, "--count", "5", "--prompt", "head ")
command("inside", "--run", RUN)
# Expect about 8.3 nats per line from this one too, and heads that read the place five steps back in RUN/inside.png.


# %% Trained weights that come with rgen
mnist = rgen.load_run("pretrained:mnist")
sampler = rgen.make_sampler(mnist.model, mnist.data)
images, cost = jax.jit(Sampler.draw, static_argnums=0)(sampler, mnist.params, np.uint32(0), np.arange(16))
plt.imsave(OUT / "digits.png", np.concatenate(np.asarray(images), axis=1), cmap="gray_r")
print(f"16 digits in {OUT / 'digits.png'}, {float(cost.mean()):.1f} nats each")
