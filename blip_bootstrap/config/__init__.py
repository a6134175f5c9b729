"""One frozen configuration tree, from YAML and `--set a.b=c`; every mistake is listed at once."""

from __future__ import annotations

from blip_bootstrap.config.benchmark import BenchmarkConfig
from blip_bootstrap.config.caption import CaptionConfig, SamplerConfig
from blip_bootstrap.config.duplicates import DuplicatesConfig
from blip_bootstrap.config.evaluate import ControlsConfig, EvaluateConfig, ReportConfig
from blip_bootstrap.config.filter_check import CheckFilterConfig, FilterCheckConfig
from blip_bootstrap.config.hard_texts import HardTextsConfig
from blip_bootstrap.config.inputs import (
    AnnotatedSet,
    DownloadConfig,
    FindSamePicturesConfig,
    PictureRule,
    PictureSource,
    SamePicturesConfig,
    UrlList,
)
from blip_bootstrap.config.judges import JudgeConfig
from blip_bootstrap.config.load import config_of, dump_yaml, load_config, read_yaml
from blip_bootstrap.config.model import ModelConfig, TextConfig, VisionConfig
from blip_bootstrap.config.select import SelectConfig
from blip_bootstrap.config.text_rules import TextRulesConfig
from blip_bootstrap.config.training import (
    EqualTexts,
    FinetuneConfig,
    ItcConfig,
    ItmConfig,
    OptimizerConfig,
    PretrainConfig,
    SourceWeightsConfig,
    TrackerName,
)
from blip_bootstrap.config.tree import Config, RayConfig, TrainControlsConfig, check_filter_config, same_pictures_config
from blip_bootstrap.config.vqa import VqaConfig
from blip_bootstrap.config.writers import PromptConfig, WriterConfig
from blip_bootstrap.settings.section import Count, Device, Dtype, Fraction, NonNegative, Section, SeedNumber

__all__ = [
    "AnnotatedSet",
    "BenchmarkConfig",
    "CaptionConfig",
    "CheckFilterConfig",
    "Config",
    "ControlsConfig",
    "Count",
    "Device",
    "DownloadConfig",
    "Dtype",
    "DuplicatesConfig",
    "EqualTexts",
    "EvaluateConfig",
    "FilterCheckConfig",
    "FindSamePicturesConfig",
    "FinetuneConfig",
    "Fraction",
    "HardTextsConfig",
    "ItcConfig",
    "ItmConfig",
    "JudgeConfig",
    "ModelConfig",
    "NonNegative",
    "OptimizerConfig",
    "PictureRule",
    "PictureSource",
    "PretrainConfig",
    "PromptConfig",
    "RayConfig",
    "ReportConfig",
    "SamePicturesConfig",
    "SamplerConfig",
    "Section",
    "SeedNumber",
    "SelectConfig",
    "SourceWeightsConfig",
    "TextConfig",
    "TextRulesConfig",
    "TrackerName",
    "TrainControlsConfig",
    "UrlList",
    "VisionConfig",
    "VqaConfig",
    "WriterConfig",
    "check_filter_config",
    "config_of",
    "dump_yaml",
    "load_config",
    "read_yaml",
    "same_pictures_config",
]
