"""Take whole attention heads from a vision transformer, in every block as many as matter least there.

python examples/prune_vit_heads.py
"""

import timm
import torch

import dfpc_plugin as dfpc


def main() -> None:
    torch.manual_seed(0)
    # pretrained=True for real; four blocks of six heads, so that the example is quick
    model = timm.create_model("vit_small_patch16_224", depth=4, img_size=96).eval()
    x = torch.randn(1, 3, 96, 96)

    heads = [c for c in dfpc.find_couplings(model, x, whole_heads=True) if c.name.endswith("attn.qkv")]
    print(heads[0])  # a unit is a head: its queries, keys, values, and what reads them

    # Everything but the attention stays: patch embedding and residual stream, and the insides of the MLPs.
    others = ["patch_embed*", "pos_embed", "cls_token", "*.attn.proj", "*.mlp.*"]
    result = dfpc.prune(model, x, "ratio=0.34", whole_heads=True, min_channels=1, ignored_layers=others)

    for index, block in enumerate(result.model.blocks):
        attention = block.attn
        print(
            f"block {index}: {attention.num_heads} heads of {attention.head_dim}, qkv {tuple(attention.qkv.weight.shape)}"
        )
    left = sum(block.attn.num_heads for block in result.model.blocks)
    print(f"Heads: {sum(block.attn.num_heads for block in model.blocks)} -> {left}")
    with torch.inference_mode():
        print("Output:", tuple(result.model(x).shape))


if __name__ == "__main__":
    main()
