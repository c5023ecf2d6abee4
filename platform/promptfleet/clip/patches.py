"""Image features and patch features of the two image towers that CLIP was published with."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from promptfleet.errors import BackboneError


class PatchEncoder:
    """The image tower of an open_clip model, which shares its weights.

    Raises:
        BackboneError: a tower other than a vision transformer with one class token, or a ResNet with attention pooling.
    """

    def __init__(self, model: nn.Module, name: str):
        from open_clip.modified_resnet import ModifiedResNet
        from open_clip.transformer import VisionTransformer

        visual = model.visual
        if type(visual) is VisionTransformer and _pools_by_class_token(visual):
            self._visual = copy.copy(visual)
            self._visual.output_tokens = True
            self._tokens = self._transformer_tokens
        elif type(visual) is ModifiedResNet:
            self._visual = visual
            self._tokens = self._resnet_tokens
        else:
            raise BackboneError(
                f"backbone {name!r}: no patch features of its image tower ({type(visual).__name__}); there are for "
                f"open_clip's ViT with a class token and for its ModifiedResNet, such as ViT-B-16 and RN50"
            )

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return global features ``[images, dim]`` as from ``encode_image``, and ``[images, patches, dim]``; unit norm.

        A vision transformer's patches are its tokens after the last layer norm and the projection, without the class
        token; a ResNet's are its attention pool with every spatial token as the query, without the mean token.
        Source: arXiv:2403.00041 (FedOTP), image features for prompts.
        """
        pooled, tokens = self._tokens(pixels)
        return F.normalize(pooled, dim=-1), F.normalize(tokens, dim=-1)

    def _transformer_tokens(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        pooled, tokens = self._visual(pixels)
        return pooled, tokens @ self._visual.proj

    def _resnet_tokens(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        visual, pool = self._visual, self._visual.attnpool
        maps = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(pixels)))))
        cells = maps.flatten(2).permute(2, 0, 1)  # [patches, images, width]
        tokens = torch.cat([cells.mean(dim=0, keepdim=True), cells])
        tokens = tokens + pool.positional_embedding[:, None, :]
        attended, _ = F.multi_head_attention_forward(
            tokens,
            tokens,
            tokens,
            tokens.shape[-1],
            pool.num_heads,
            in_proj_weight=None,
            in_proj_bias=torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]),
            bias_k=None,
            bias_v=None,
            add_zero_attn=False,
            dropout_p=0.0,
            out_proj_weight=pool.c_proj.weight,
            out_proj_bias=pool.c_proj.bias,
            training=False,
            need_weights=False,
            use_separate_proj_weight=True,
            q_proj_weight=pool.q_proj.weight,
            k_proj_weight=pool.k_proj.weight,
            v_proj_weight=pool.v_proj.weight,
        )
        return attended[0], attended[1:].transpose(0, 1)


def _pools_by_class_token(visual: nn.Module) -> bool:
    plain = visual.attn_pool is None and not visual.final_ln_after_pool
    return plain and visual.pool_type == "tok" and visual.proj is not None
