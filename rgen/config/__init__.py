"""The command lines as frozen dataclasses, and presets by name. Imports neither JAX nor data, so that `--help` is quick."""

from rgen.config.presets import PRESETS, choose_preset
from rgen.config.timed import BenchmarkConfig
from rgen.config.train import TrainConfig, from_json, to_json
from rgen.config.trained import CheckConfig, EvaluateConfig, InsideConfig, ReportConfig, SampleConfig

__all__ = [
    "PRESETS",
    "BenchmarkConfig",
    "CheckConfig",
    "EvaluateConfig",
    "InsideConfig",
    "ReportConfig",
    "SampleConfig",
    "TrainConfig",
    "choose_preset",
    "from_json",
    "to_json",
]
