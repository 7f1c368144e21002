"""le_grad: gradients of the attentions of vision transformers, against numbers worked by hand and plain autograd."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch
import torch.nn.functional as F
from numpy.testing import assert_allclose
from torch import nn

from fe_gradcam import Heatmap, UnsupportedModelError, explain
from fe_gradcam.backends import backend_for
from fe_gradcam.backends.protocol import Query
from fe_gradcam.backends.pytorch.attention import AttentionMode
from fe_gradcam.spec.images import Inputs
from fe_gradcam.spec.resolved import resolve_target
from tests.models.kits import KITS, Kit
from tests.models.zoo import hugging_face

WIDTH, GRID = 8, (3, 4)


class Uniform(nn.Module):
    """Patches of one pixel and one block of attention whose queries are 0: every token attends to all alike."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 2, 1, bias=False)
        self.block = UniformBlock()
        self.head = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.patches.weight.copy_(torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1))
            self.head.weight.copy_(torch.tensor([[3.0, 1.0], [-1.0, 2.0]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.block(tokens).mean(1))


class UniformBlock(nn.Module):
    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        attention = (0 * tokens @ tokens.transpose(1, 2))[:, None].softmax(-1)
        return tokens + (attention @ tokens[:, None])[:, 0]


def test_by_hand() -> None:
    """S = w · mean_i (t_i + Σ_j P_ij t_j): ∂s/∂P_ij = w · t_j / 6, of which the positive part is averaged over i.

    Pixels x = -2 … 3 make t = (x, -x); class 0 has w · t = 2 x, class 1 has -3 x.
    """
    images = torch.arange(-2.0, 4.0).reshape(1, 1, 2, 3)
    for target, expected in enumerate([[[0, 0, 0], [2, 4, 6]], [[6, 3, 0], [0, 0, 0]]]):
        heatmap = explain(Uniform(), images, method="le_grad", target=target)
        assert_allclose(heatmap.raw[0], np.array(expected) / 6, atol=1e-6)
        assert heatmap.layer == "whole model"


class Attention(nn.Module):
    """As `how` says: in its parts, fused, or torch's own module."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.own = how, nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        nn.init.normal_(self.own.in_proj_bias)
        nn.init.normal_(self.own.out_proj.bias)
        self.given: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.how in ("own", "own with weights"):
            return self.own(x, x, x, need_weights=self.how == "own with weights")[0]
        parts = F.linear(x, self.own.in_proj_weight, self.own.in_proj_bias).chunk(3, -1)
        query, key, value = (part.reshape(len(x), -1, 2, WIDTH // 2).transpose(1, 2) for part in parts)
        if self.how == "fused":
            attended = F.scaled_dot_product_attention(query, key, value)
        else:
            attention = (query @ key.transpose(-2, -1) / (WIDTH // 2) ** 0.5).softmax(-1)
            if self.given is not None:
                attention = self.given
            elif self.how == "kept":
                self.kept = attention
            attended = attention @ value
        return self.own.out_proj(attended.transpose(1, 2).reshape(x.shape))


class Block(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(WIDTH), Attention(how), nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 16), nn.GELU(), nn.Linear(16, WIDTH))
        self.tupled = how == "fused"

    def forward(self, x: torch.Tensor) -> Any:
        x = x + self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return (x,) if self.tupled else x


class Transformer(nn.Module):
    """Patches of 4 pixels, a class token, three blocks, a norm, a head on the class token behind a softmax."""

    def __init__(self, how: str = "parts", blocks: int = 3) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.patches = nn.Conv2d(3, WIDTH, 4, 4)
        self.first = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.blocks = nn.ModuleList(Block(how) for _ in range(blocks))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 5)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        return torch.cat([self.first.expand(len(x), -1, -1), patches], 1)

    def encoded(self, tokens: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            tokens = block(tokens)
            tokens = tokens[0] if isinstance(tokens, tuple) else tokens
        return tokens

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(tokens)[:, 0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits(self.encoded(self.tokens(x))).softmax(-1)


def maps_by_autograd(
    net: Transformer, images: torch.Tensor, target: int, *, mean_token: bool = True
) -> list[np.ndarray]:
    """The paper's sums written out, for each block; the classifier gets the mean of all tokens, or the first."""
    tokens, maps = net.tokens(images), []
    for block in net.blocks:
        kept = Block("kept").eval()
        kept.load_state_dict(block.state_dict())
        kept(tokens)
        kept.attention.given = kept.attention.kept.detach().requires_grad_(True)
        tokens = kept(tokens)
        read = tokens.mean(1, keepdim=True) if mean_token else tokens
        (gradient,) = torch.autograd.grad(net.logits(read)[:, target].sum(), kept.attention.given, retain_graph=True)
        maps.append(gradient.clamp(min=0).mean((1, 2))[:, 1:].reshape(-1, *GRID).numpy())
        tokens = tokens.detach()
    return maps


def assert_as_by_autograd(
    model: Any, images: torch.Tensor, given: Any = None, tolerance: float = 1e-5, **how: Any
) -> Heatmap:
    """The maps of class 3 by both rules, averaged over the blocks; returns the heatmap of the paper's rule."""
    given, heatmaps = images if given is None else given, []
    for mean_token in (True, False):
        method = ("le_grad", {} if mean_token else {"mean_token": False})
        heatmaps.append(explain(model, given, method=method, target=3, **how))
        expected = np.mean(maps_by_autograd(Transformer(), images, 3, mean_token=mean_token), 0)
        assert_allclose(heatmaps[-1].raw, expected, atol=tolerance * np.abs(expected).max())
    return heatmaps[0]


@pytest.mark.parametrize("how", ["parts", "fused", "own", "own with weights"])
def test_is_what_autograd_says_however_the_attention_is_written(how: str) -> None:
    images = torch.randn(2, 3, 12, 16)
    net = Transformer(how).eval()
    assert_allclose(net(images).detach(), Transformer("parts").eval()(images).detach(), atol=1e-6)
    heatmap = assert_as_by_autograd(net, images)
    assert heatmap.values.shape == (2, 12, 16)
    assert F.scaled_dot_product_attention.__name__ == "scaled_dot_product_attention", "the replaced one was left behind"
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


@pytest.mark.parametrize("kit", KITS.values(), ids=KITS)
def test_refuses_what_has_no_blocks_of_attention(kit: Kit) -> None:
    with pytest.raises(UnsupportedModelError, match=r"le_grad.*vision transformers.*Use method='grad_cam'"):
        explain(kit.small(), kit.images(np.random.rand(1, 9, 12, 3)), method="le_grad")


def test_refuses_a_block_that_is_called_twice() -> None:
    shared = Transformer()
    shared.blocks = nn.ModuleList([shared.blocks[0]] * 2)
    with pytest.raises(UnsupportedModelError, match="le_grad"):
        explain(shared, torch.randn(1, 3, 12, 16), method="le_grad")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT", "DeiT"])
def test_transformers_of_hugging_face_with_fused_attention(name: str) -> None:
    pytest.importorskip("transformers")
    sizes = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    net = hugging_face(name, {"image_size": 32, "patch_size": 8, **sizes}).eval()
    images = torch.randn(2, 3, 32, 32)
    heatmap = explain(net, images, method="le_grad", target=1)
    assert heatmap.raw.shape == (2, 4, 4)
    assert (heatmap.raw >= 0).all()
    assert not heatmap.blank.any()
    single = explain(net, images[1:], method="le_grad", target=1)
    assert_allclose(heatmap.raw[1], single.raw[0], atol=1e-5 * heatmap.raw.max())


@pytest.mark.slow
def test_of_a_transformer_of_hugging_face_by_hand() -> None:
    """The paper's equations on the model's own parts: z-bar is the mean of all tokens, the class token among them."""
    pytest.importorskip("transformers")
    sizes = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    net = hugging_face("ViT", {"image_size": 32, "patch_size": 8, **sizes}).eval()
    if hasattr(net, "set_attn_implementation"):  # earlier versions have no other
        net.set_attn_implementation("eager")
    ends: list[torch.Tensor] = []
    hooks = [
        block.register_forward_hook(lambda *call: ends.append(call[-1][0] if isinstance(call[-1], tuple) else call[-1]))
        for block in (net.vit.encoder.layer if hasattr(net.vit, "encoder") else net.vit.layers)
    ]
    images = torch.randn(2, 3, 32, 32)
    attentions = net(images, output_attentions=True).attentions
    for hook in hooks:
        hook.remove()
    assert [tuple(end.shape) for end in ends] == [(2, 17, 24)] * 3
    for mean_token in (True, False):
        maps = []
        for end, attention in zip(ends, attentions, strict=True):
            read = end.mean(1) if mean_token else end[:, 0]
            score = net.classifier(net.vit.layernorm(read))[:, 1].sum()
            (gradient,) = torch.autograd.grad(score, attention, retain_graph=True)
            maps.append(gradient.clamp(min=0).mean((1, 2))[:, 1:].reshape(2, 4, 4))
        expected = torch.stack(maps).mean(0)
        found = explain(net, images, method=("le_grad", {"mean_token": mean_token}), target=1).raw
        assert_allclose(found, expected, atol=1e-5 * float(expected.max()))


@pytest.mark.slow
def test_refuses_windows_which_are_no_attention_over_all_tokens_of_the_image() -> None:
    pytest.importorskip("transformers")
    sizes = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2]}
    net = hugging_face("Swin", {"window_size": 4, **sizes}).eval()
    with pytest.raises(UnsupportedModelError, match="le_grad"):
        explain(net, torch.randn(2, 3, 32, 32), method="le_grad")


def keras_transformer(nested: bool = False) -> Any:
    """The network of Transformer in Keras with its weights, as one flat functional model or with layers for blocks."""
    layers, net = tf.keras.layers, Transformer()

    class First(layers.Layer):
        def build(self, shape: Any) -> None:
            self.token = self.add_weight("token", (1, 1, WIDTH))

        def call(self, x: Any) -> Any:
            return tf.concat([tf.repeat(self.token, tf.shape(x)[0], 0), x], 1)

    class KerasBlock(layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = (layers.LayerNormalization(epsilon=1e-5) for _ in range(2))
            self.attention = layers.MultiHeadAttention(2, WIDTH // 2)
            self.wide, self.narrow = layers.Dense(16, activation="gelu"), layers.Dense(WIDTH)

        def call(self, x: Any) -> Any:
            normed = self.norm1(x)
            x = x + self.attention(normed, normed)
            return x + self.narrow(self.wide(self.norm2(x)))

    first, blocks = First(), [KerasBlock() for _ in net.blocks]
    patches, norm, head = layers.Conv2D(WIDTH, 4, 4), layers.LayerNormalization(epsilon=1e-5), layers.Dense(5)
    inputs = tf.keras.Input((12, 16, 3))
    x = first(layers.Reshape((12, WIDTH))(patches(inputs)))
    for block in blocks:
        x = block(x) if nested else block.call(x)
    outputs = layers.Softmax()(head(norm(x)[:, 0]))
    model = tf.keras.Model(inputs, outputs)

    def give(layer: Any, module: Any) -> None:
        layer.set_weights([parameter.numpy().T for parameter in module.parameters()])

    net.requires_grad_(False)
    patches.set_weights([net.patches.weight.permute(2, 3, 1, 0).numpy(), net.patches.bias.numpy()])
    first.set_weights([net.first.numpy()])
    for block, of_torch in zip(blocks, net.blocks, strict=True):
        own, weights = of_torch.attention.own, []
        for weight, bias in zip(own.in_proj_weight.chunk(3), own.in_proj_bias.chunk(3), strict=True):
            weights += [weight.T.reshape(WIDTH, 2, -1), bias.reshape(2, -1)]
        weights += [own.out_proj.weight.T.reshape(2, -1, WIDTH), own.out_proj.bias]
        block.attention.set_weights([weight.numpy() for weight in weights])
        give(block.norm1, of_torch.norm1)
        give(block.norm2, of_torch.norm2)
        give(block.wide, of_torch.mlp[0])
        give(block.narrow, of_torch.mlp[2])
    give(norm, net.norm)
    give(head, net.head)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("nested", [False, True])
def test_keras_is_what_autograd_says(nested: bool) -> None:
    images = torch.randn(2, 3, 12, 16)
    model, given = keras_transformer(nested), images.permute(0, 2, 3, 1).numpy()
    assert_allclose(model(given), Transformer().eval()(images).detach(), atol=1e-5)
    for layer in (model.layers[1], None):
        assert_as_by_autograd(model, images, given, 1e-4, layer=layer)
    of_log = {"layer": model.layers[1], "target": lambda output: tf.math.log(output[:, 3])}
    raw = explain(model, given, method="le_grad", **of_log).raw
    assert (raw >= 0).all() and raw.any()


@pytest.mark.parametrize("kind", ["plain", "bool mask", "float mask", "causal", "grouped", "scaled"])
def test_the_fused_attention_is_taken_apart_as_torch_computes_it(kind: str) -> None:
    query, key, value = torch.randn(2, 4, 5, 6), torch.randn(2, 4, 5, 6), torch.randn(2, 4, 5, 6)
    settings: dict[str, Any] = {
        "plain": {},
        "bool mask": {"attn_mask": torch.rand(5, 5).fill_diagonal_(1) > 0.4},
        "float mask": {"attn_mask": torch.randn(5, 5)},
        "causal": {"is_causal": True},
        "grouped": {"enable_gqa": True},
        "scaled": {"scale": 0.7},
    }[kind]
    if kind == "grouped":
        if torch.__version__.startswith(("2.3.", "2.4.")):
            pytest.skip("PyTorch 2.5 is the first that has it")
        key, value = key[:, :2], value[:, :2]
    expected = F.scaled_dot_product_attention(query, key, value, **settings)
    seen: list[torch.Tensor] = []

    def found(attention: torch.Tensor) -> torch.Tensor:
        seen.append(attention)
        return attention

    with AttentionMode(found):
        taken = F.scaled_dot_product_attention(query, key, value, **settings)
    assert_allclose(taken, expected, atol=1e-5)
    assert seen[0].shape == (2, 4, 5, 5)
    assert_allclose(seen[0].sum(-1), np.ones((2, 4, 5)), atol=1e-5)


def test_blocks_in_a_module_of_their_own() -> None:
    """An encoder gets tokens and hands on tokens too, and yet is no block: it holds three."""

    class Nested(Transformer):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(*self.blocks)
            del self.blocks

        def encoded(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.encoder(tokens)

    images = torch.randn(2, 3, 12, 16)
    assert_as_by_autograd(Nested().eval(), images)


def test_scores_behind_a_block_that_lie_within_one_by_chance_are_logits_all_the_same() -> None:
    """Whether outputs are probabilities is told from the network as it is, and not from one that ends early."""
    images = torch.randn(1, 3, 12, 16)

    class Logits(Transformer):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.logits(self.encoded(self.tokens(x)))

    net = Logits().eval()
    with torch.no_grad():  # the whole network's outputs leave [0, 1]; those behind the first block lie within
        early = net.logits(net.blocks[0](net.tokens(images)))
        late = net(images)
        net.head.weight *= 0.1
        net.head.bias.copy_(0.5 - 0.1 * (early[0] - net.head.bias))
        assert (net.logits(net.blocks[0](net.tokens(images))) <= 1).all()
        net.head.bias[3] += 3 if late[0, 3] > early[0, 3] else -3
    backend = backend_for(net)
    ref, inputs = backend.resolve("blocks.2.norm1"), Inputs.of(images)
    query = Query(ref, [resolve_target(1, 1)], "logit")
    backend.run(inputs, query)
    maps = backend.attention_gradients(inputs, query, mean_token=False)
    for found, expected in zip(maps, maps_by_autograd(net, images, 1, mean_token=False), strict=True):
        assert_allclose(found, expected, atol=1e-6)
    scores = explain(net, images, target=1, layer="blocks.2.norm1").scores
    assert_allclose(scores, net(images)[:, 1].detach(), rtol=1e-5)


def test_reshape_says_where_the_tokens_of_the_image_are() -> None:
    """Registers behind the image's tokens are not told from them: reshape leaves them out, here as everywhere."""

    class Behind(Transformer):
        def tokens(self, x: torch.Tensor) -> torch.Tensor:
            return super().tokens(x).roll(-1, 1)  # the class token comes last

        def logits(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.head(self.norm(tokens)[:, -1])

    images = torch.randn(2, 3, 12, 16)

    def of_image(tokens: torch.Tensor) -> torch.Tensor:
        return tokens[:, :12].transpose(1, 2).reshape(len(tokens), -1, *GRID)

    assert_as_by_autograd(Behind().eval(), images, layer="norm", reshape=of_image)


@pytest.mark.slow
def test_keras_refuses_a_head_that_goes_by_the_number_of_images() -> None:
    class Counts(tf.keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.inside = keras_transformer()
            self.body = tf.keras.Model(self.inside.input, self.inside.layers[-3].input)

        def call(self, x: Any) -> Any:
            tokens = tf.reshape(self.body(x), (tf.shape(x)[0], -1, WIDTH))
            return self.inside.layers[-1](self.inside.layers[-2](tf.reduce_mean(tokens, 1)))

    model, images = Counts(), np.random.randn(1, 12, 16, 3).astype(np.float32)
    model(images)
    for count in (1, 2):
        with pytest.raises(UnsupportedModelError, match=r"le_grad.*number of images"):
            explain(model, np.repeat(images, count, 0), method="le_grad", target=3)
