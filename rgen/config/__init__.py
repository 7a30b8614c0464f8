"""The command lines as frozen dataclasses, and presets by name. Imports neither JAX nor data, so that `--help` is quick."""

from rgen.config.others import BenchmarkConfig, CheckConfig, EvaluateConfig, InsideConfig, ReportConfig, SampleConfig
from rgen.config.presets import PRESETS, choose_preset
from rgen.config.train import TrainConfig, from_json, to_json

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
