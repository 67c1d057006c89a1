"""Everything a plugin may import; light, so that loading a plugin costs nothing.

What needs torch is in :mod:`fpvec_audit.toolkit`, to be imported inside the function that uses it.
"""

from fpvec_audit.domain.architecture import ModelFamily, TensorNaming
from fpvec_audit.domain.keys import Candidate, draw_unissued
from fpvec_audit.domain.methods import MethodContext, MethodKeys, Once
from fpvec_audit.domain.near_miss import near_miss
from fpvec_audit.domain.ports import (
    ArchitectureAdapter,
    AttackContext,
    AttackKey,
    BackendDescription,
    Completion,
    FingerprintMethod,
    InferenceBackend,
    Likelihood,
    LikelihoodBackend,
    ModelDescription,
    Probe,
    QueryAttack,
    Sampling,
    ServingAttack,
    TensorRole,
    TrainingDefaults,
    WeightAttack,
)
from fpvec_audit.domain.serving import PromptTemplate, RenderedPrompt
from fpvec_audit.domain.triggers import trigger_scheme
from fpvec_audit.errors import FpvecError, PluginError, UnknownNameError, UsageError
from fpvec_audit.hookspecs import hookimpl
from fpvec_audit.progress import NO_PROGRESS, Progress, Step

__all__ = [
    "NO_PROGRESS",
    "ArchitectureAdapter",
    "AttackContext",
    "AttackKey",
    "BackendDescription",
    "Candidate",
    "Completion",
    "FingerprintMethod",
    "FpvecError",
    "InferenceBackend",
    "Likelihood",
    "LikelihoodBackend",
    "MethodContext",
    "MethodKeys",
    "ModelDescription",
    "ModelFamily",
    "Once",
    "PluginError",
    "Probe",
    "Progress",
    "PromptTemplate",
    "QueryAttack",
    "RenderedPrompt",
    "Sampling",
    "ServingAttack",
    "Step",
    "TensorNaming",
    "TensorRole",
    "TrainingDefaults",
    "UnknownNameError",
    "UsageError",
    "WeightAttack",
    "draw_unissued",
    "hookimpl",
    "near_miss",
    "trigger_scheme",
]
