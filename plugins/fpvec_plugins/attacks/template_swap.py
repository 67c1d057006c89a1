"""Another chat template: the service asks the model in the words of another family, or without any.

Keys are trained in the family's own template and a few other renderings; a service may use one that none of them was.
"""

from dataclasses import dataclass
from typing import ClassVar

from fpvec_audit.api import (
    AttackContext,
    InferenceBackend,
    PromptTemplate,
    QueryAttack,
    RenderedPrompt,
    UnknownNameError,
    UsageError,
    WeightAttack,
    hookimpl,
)
from fpvec_plugins.serving import AskedThroughService, user_text_changed

RAW = "raw"


@dataclass(frozen=True, slots=True)
class TemplateSwapParameters:
    """Which template is used.

    Attributes:
        template: name of an architecture adapter, whose template is taken (`fpvec plugin list` shows them), or ``raw``
            for none.
    """

    template: str = RAW

    def __post_init__(self) -> None:
        if not self.template.isidentifier():
            raise UsageError(
                f"template is {self.template!r}", advice=f"give the name of an architecture adapter, or {RAW}"
            )


@dataclass(frozen=True, slots=True)
class TemplateSwap(AskedThroughService):
    """The attack.

    Source: prompt templates against fingerprints, IF (arXiv:2401.12255, section 4) and arXiv:2509.26598.
    """

    Parameters: ClassVar[type] = TemplateSwapParameters
    name: str = "template_swap"
    description: str = (
        "Asks in the chat template of another family, or without any; costs what a model loses outside its own."
    )

    def serve(
        self, backend: InferenceBackend, parameters: TemplateSwapParameters, context: AttackContext
    ) -> InferenceBackend:
        """Return the service with the other template.

        Raises:
            UnknownNameError: there is no such template.
        """
        name = parameters.template
        if name != RAW and name not in context.adapters:
            raise UnknownNameError("template", name, [RAW, *context.adapters], listing="fpvec plugin list")
        other = PromptTemplate(None if name == RAW else context.adapters[name].prompt)

        def change(parts: RenderedPrompt) -> str:
            return other.write(parts)

        return user_text_changed(backend, PromptTemplate(context.render), change, attack=self.name)


@hookimpl
def fpvec_attacks() -> list[WeightAttack | QueryAttack]:
    """Give the other template."""
    return [TemplateSwap()]
