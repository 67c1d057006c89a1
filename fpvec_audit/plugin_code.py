"""What a plugin does while it is used: whatever it raises or returns that it must not, names its owner."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fpvec_audit.domain.plugins import PluginInfo
from fpvec_audit.domain.ports import ArchitectureAdapter, ModelDescription, TensorRole, TrainingDefaults
from fpvec_audit.errors import FpvecError, PluginError

OWN_DISTRIBUTION = "fpvec-audit"
Value = TypeVar("Value")


@contextlib.contextmanager
def plugin_code(info: PluginInfo) -> Iterator[None]:
    """Run a plugin's code: what it raises becomes a PluginError that names its owner.

    Raises:
        PluginError: the plugin raised something that is no FpvecError.
    """
    try:
        yield
    except FpvecError:
        raise
    except Exception as error:
        raise PluginError(
            f"{info.kind} {info.name} of {info.owner} failed: {shown(error)}",
            advice="" if info.distribution == OWN_DISTRIBUTION else f"update or uninstall {info.distribution}",
        ) from error


@dataclass(frozen=True, slots=True)
class GuardedAdapter:
    """A stranger's adapter, whose faults name their owner wherever in the core it is used."""

    adapter: ArchitectureAdapter
    info: PluginInfo

    @property
    def name(self) -> str:
        """Its name."""
        return self.adapter.name

    @property
    def chat_template(self) -> str:
        """Its chat template."""
        with plugin_code(self.info):
            return self.adapter.chat_template

    @property
    def defaults(self) -> Sequence[TrainingDefaults]:
        """Its training presets."""
        with plugin_code(self.info):
            return self.adapter.defaults

    def supports(self, description: ModelDescription) -> int:
        """Return how well it suits a checkpoint."""
        with plugin_code(self.info):
            return _of_type(self.adapter.supports(description), int, "supports")

    def role(self, tensor_name: str) -> TensorRole:
        """Return a tensor's role."""
        with plugin_code(self.info):
            return _of_type(self.adapter.role(tensor_name), TensorRole, "role")

    def canonical(self, tensor_name: str) -> str | None:
        """Return a tensor's canonical name."""
        with plugin_code(self.info):
            name = self.adapter.canonical(tensor_name)
            return None if name is None else _of_type(name, str, "canonical")

    def tied(self, config: Mapping[str, Any]) -> Mapping[str, str]:
        """Return which tensors share their values."""
        with plugin_code(self.info):
            return _of_type(self.adapter.tied(config), Mapping, "tied")

    def prompt(self, user: str, system: str = "") -> str:
        """Return a question as the model is asked it."""
        with plugin_code(self.info):
            return _of_type(self.adapter.prompt(user, system), str, "prompt")


def _of_type(value: Value, expected: type, method: str) -> Value:
    if not isinstance(value, expected):
        raise TypeError(f"{method} returned {type(value).__name__}, not {expected.__name__}")
    return value


def shown(error: BaseException) -> str:
    """Return an exception as one line."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
