"""OpenPrompt: prompts from a template of hard and soft tokens, and several words for each class.

Source: Ding, Hu, Zhao, Chen, Liu, Zheng, Sun: "OpenPrompt: An Open-source Framework for Prompt-learning", ACL 2022
(arXiv:2111.01998), its templates (``parts.template``) and verbalizers (``parts.verbalizers``). With the word logits
z_cj = s <f, T(template with word j of class c)>, p their softmax over all words, and p / p0 with calibration:
    manual:         score_c = mean_j log p_cj
    knowledgeable:  score_c = sum_j softmax_j(omega_cj) log p_cj, and omega is learned from 0
    soft:           score_c = mean_j z_cj + s <f, V_c>, and V is learned from 0
Federated (ours): the server averages the soft vectors, and omega or V if ``verbalizer_scope`` is shared.
Differs: a masked language model predicts the word at a mask, CLIP compares the image with the word in the template. p0
is of the client's mean training feature, as CLIP has no empty input. A soft verbalizer adds to the words' features what
the published one starts from them. Soft vectors with words are learned steps from their embeddings, to which weight
decay pulls them. With one word per class and no calibration scores are the logits themselves.
``TemplateAndWords`` is a plug-in over any prompt method, which then has words where it has classes.
"""

from typing import ClassVar

from pydantic import Field

from promptfleet.methods.fedpgp import FedPGP, FedPGPConfig
from promptfleet.methods.parts.template_and_words import TemplateAndWords, TemplateAndWordsConfig, verbalizer_of
from promptfleet.methods.parts.training import train_steps
from promptfleet.methods.pfedmoap import PFedMoAP, PFedMoAPConfig
from promptfleet.methods.promptfl import PromptFL, PromptFLConfig
from promptfleet.methods.protocol import Message, Task, Update, Work


class HardOrSoftPrompt(PromptFL):
    """PromptFL that also takes a context of no vectors, with which only a verbalizer is left to train."""

    def local_update(self, task: Task) -> Work[Update]:
        if task.config.prompt_length:
            return (yield from super().local_update(task))
        context, text, metrics = task.download.tensors["context"], task.download.attached["text"], {}
        if verbalizer_of(task):
            metrics = yield from train_steps(
                task, optimizers=[], loss=lambda _, batch: self.cross_entropy(task, text, batch)
            )
        return Update(task.private, Message({"context": context}), metrics)


class OpenPromptConfig(PromptFLConfig, TemplateAndWordsConfig):
    """A federation that runs OpenPrompt."""

    prompt_length: int = Field(
        8, ge=0, description="number of learnable context tokens; default: those of the template"
    )
    needs_vectors: ClassVar[bool] = False


class OpenPrompt(TemplateAndWords, HardOrSoftPrompt):
    """One averaged context, whose vectors have the places of the template's soft slots.

    Server state, down and up as in PromptFL: ``context`` [vectors, width] and its ``text`` features [words, dim].
    """

    Config = OpenPromptConfig


class FedPGPConfigWithTemplate(FedPGPConfig, TemplateAndWordsConfig):
    """Configuration of FedPGP with the plug-in."""


class OpenPromptOnFedPGP(TemplateAndWords, FedPGP):
    """FedPGP with a template and words."""

    Config = FedPGPConfigWithTemplate


class PFedMoAPConfigWithTemplate(PFedMoAPConfig, TemplateAndWordsConfig):
    """Configuration of pFedMoAP with the plug-in."""


class OpenPromptOnPFedMoAP(TemplateAndWords, PFedMoAP):
    """PFedMoAP with a template and words."""

    Config = PFedMoAPConfigWithTemplate
