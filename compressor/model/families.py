"""The anatomy table: how each stock family names its parts, and which of them no pass can work on."""

from __future__ import annotations

from dataclasses import replace

from compressor.contracts.anatomy import Row

TURNED = {"attention scores": "positions are turned into queries and keys after they were made"}
ADDED = {"attention scores": "relative positions are added to them"}
SHARED_POSITIONS = "relative positions have a column for each head, and every block adds the same ones"

BERT = Row(
    family="bert",
    model_types=("bert",),
    trunks=("", "bert"),
    stack="encoder.layer",
    attention="attention.self",
    projections=("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"),
    up="intermediate.dense",
    down="output.dense",
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
    embeddings=("embeddings",),
    head=("pooler",),
    heads_attributes=("num_attention_heads",),
    head_size_attribute="attention_head_size",
)

ROBERTA = replace(BERT, family="roberta", model_types=("roberta", "xlm-roberta", "camembert"), trunks=("", "roberta"))

ELECTRA = replace(
    BERT,
    family="electra",
    model_types=("electra",),
    trunks=("", "electra"),
    embeddings=("embeddings", "embeddings_project"),
    head=(),
)

MPNET = replace(
    BERT,
    family="mpnet",
    model_types=("mpnet",),
    trunks=("", "mpnet"),
    attention="attention.attn",
    projections=("attention.attn.q", "attention.attn.k", "attention.attn.v", "attention.attn.o"),
    norms=("attention.LayerNorm", "output.LayerNorm"),
    embeddings=("embeddings", "encoder.relative_attention_bias"),
    without={
        "heads": SHARED_POSITIONS,
        "attention maps": "its attention hands out maps only where a caller asks for all of them",
        **ADDED,
    },
)

ALBERT = Row(
    family="albert",
    model_types=("albert",),
    trunks=("", "albert"),
    stack="encoder.albert_layer_groups",
    attention="albert_layers.0.attention",
    projections=(
        "albert_layers.0.attention.query",
        "albert_layers.0.attention.key",
        "albert_layers.0.attention.value",
        "albert_layers.0.attention.dense",
    ),
    up="albert_layers.0.ffn",
    down="albert_layers.0.ffn_output",
    norms=("albert_layers.0.attention.LayerNorm", "albert_layers.0.full_layer_layer_norm"),
    embeddings=("embeddings", "encoder.embedding_hidden_mapping_in"),
    head=("pooler",),
    heads_attributes=("num_attention_heads",),
    head_size_attribute="attention_head_size",
    without={
        "layers": "all layers are one block that is run again and again: a head or neuron that goes is gone from each of them",
        "features": "all layers are one block, so that what it puts out belongs to no single layer",
        "attention": "the norm and the residual lie inside of the attention: one head has to stay",
    },
)
"""A block is a group of layers that share their weights, which is all of them unless the configuration says otherwise."""

DISTILBERT = Row(
    family="distilbert",
    model_types=("distilbert",),
    trunks=("", "distilbert"),
    stack="transformer.layer",
    attention="attention",
    projections=("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"),
    up="ffn.lin1",
    down="ffn.lin2",
    norms=("sa_layer_norm", "output_layer_norm"),
    embeddings=("embeddings",),
    heads_attributes=("n_heads",),
    head_size_attribute="attention_head_size",
    config_width="hidden_dim",
)

VIT = Row(
    family="vit",
    model_types=("vit",),
    trunks=("", "vit"),
    stack="layers",
    attention="attention",
    projections=("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj"),
    up="mlp.fc1",
    down="mlp.fc2",
    norms=("layernorm_before", "layernorm_after"),
    embeddings=("embeddings",),
    head=("pooler",),
    heads_attributes=("num_attention_heads",),
    config_head_size="head_dim",
)

DEIT = replace(VIT, family="deit", model_types=("deit",), trunks=("", "deit"), config_head_size=None)

BEIT = replace(
    VIT,
    family="beit",
    model_types=("beit",),
    trunks=("", "beit"),
    without={"heads": "relative positions have a column for each head", **ADDED},
)

SIGLIP_VISION = Row(
    family="siglip-vision",
    model_types=("siglip_vision_model", "siglip"),
    trunks=("", "vision_model"),
    stack="encoder.layers",
    attention="self_attn",
    projections=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
    up="mlp.fc1",
    down="mlp.fc2",
    norms=("layer_norm1", "layer_norm2"),
    embeddings=("embeddings",),
    head=("head",),
)
"""The other tower of a whole SigLIP is out of reach: only its vision model classifies."""

DINOV2 = Row(
    family="dinov2",
    model_types=("dinov2",),
    trunks=("", "dinov2"),
    stack="encoder.layer",
    attention="attention",
    projections=("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj"),
    up="mlp.fc1",
    down="mlp.fc2",
    gate="mlp.gate_proj",
    gated=("mlp.up_proj", "mlp.down_proj"),
    norms=("norm1", "norm2"),
    embeddings=("embeddings",),
    heads_attributes=("num_attention_heads",),
    config_width="mlp_ratio",
    config_head_size="head_dim",
    width_in_hidden_sizes=True,
)

WHISPER_ENCODER = Row(
    family="whisper-encoder",
    model_types=("whisper",),
    trunks=("", "encoder", "model.encoder"),
    stack="layers",
    attention="self_attn",
    projections=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
    up="fc1",
    down="fc2",
    norms=("self_attn_layer_norm", "final_layer_norm"),
    embeddings=("conv1", "conv2", "embed_positions"),
    chain=("conv1", "conv2"),
    config_width="encoder_ffn_dim",
)

WAV2VEC2 = Row(
    family="wav2vec2",
    model_types=("wav2vec2",),
    trunks=("", "wav2vec2"),
    stack="encoder.layers",
    attention="attention",
    projections=("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.out_proj"),
    up="feed_forward.intermediate_dense",
    down="feed_forward.output_dense",
    norms=("layer_norm", "final_layer_norm"),
    embeddings=("feature_extractor", "feature_projection", "masked_spec_embed", "encoder.pos_conv_embed"),
    extractor="feature_extractor.conv_layers",
    projection=("feature_projection.layer_norm", "feature_projection.projection"),
)

HUBERT = replace(WAV2VEC2, family="hubert", model_types=("hubert",), trunks=("", "hubert"))

WAVLM = replace(
    WAV2VEC2,
    family="wavlm",
    model_types=("wavlm",),
    trunks=("", "wavlm"),
    without={
        "heads": SHARED_POSITIONS,
        "attention": "attention hands the positions that the first block makes on to the next one",
        "layers": "the first block makes the relative positions of all others",
        "attention maps": "torch computes its attention whole and hands out no maps by head",
        **ADDED,
    },
)

MODERNBERT = Row(
    family="modernbert",
    model_types=("modernbert",),
    trunks=("", "model"),
    stack="layers",
    attention="attn",
    projections=("attn.Wqkv", "attn.Wqkv", "attn.Wqkv", "attn.Wo"),
    up="mlp.Wi",
    gate="mlp.Wi",
    down="mlp.Wo",
    norms=("attn_norm", "mlp_norm"),
    embeddings=("embeddings",),
    heads_attributes=(),
    without=TURNED,
)

LLAMA = Row(
    family="llama",
    model_types=("llama",),
    trunks=("", "model"),
    stack="layers",
    attention="self_attn",
    projections=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    up="mlp.up_proj",
    gate="mlp.gate_proj",
    down="mlp.down_proj",
    norms=("input_layernorm", "post_attention_layernorm"),
    embeddings=("embed_tokens",),
    heads_attributes=(),
    config_head_size="head_dim",
    without=TURNED,
)
"""SmolLM too. Where query heads share a key and a value head, heads do not go one by one."""

QWEN = replace(LLAMA, family="qwen", model_types=("qwen2", "qwen3"))

MISTRAL = replace(LLAMA, family="mistral", model_types=("mistral",))

GEMMA = replace(LLAMA, family="gemma", model_types=("gemma",))

GPT2 = Row(
    family="gpt2",
    model_types=("gpt2",),
    trunks=("", "transformer"),
    stack="h",
    attention="attn",
    projections=("attn.c_attn", "attn.c_attn", "attn.c_attn", "attn.c_proj"),
    up="mlp.c_fc",
    down="mlp.c_proj",
    norms=("ln_1", "ln_2"),
    embeddings=("wte", "wpe"),
    config_width="n_inner",
)

DIT = Row(
    family="dit",
    model_types=("DiT",),
    trunks=("",),
    stack="blocks",
    attention="",
    projections=("query", "key", "value", "output"),
    up="up",
    down="down",
    norms=(),
    embeddings=("patches", "positions", "time", "span", "scale", "budget", "labels"),
    head=("modulation", "head"),
    heads_attributes=("heads",),
    head_size_attribute="head_size",
    config_layers="blocks",
    stream="patches",
    modulation=("modulation",),
    without={"attention maps": "its attention is computed whole and hands out none"},
)
"""The network of ours that draws: its norms have no weights."""

DIFFUSERS_DIT = Row(
    family="diffusers-dit",
    model_types=("DiTTransformer2DModel",),
    trunks=("",),
    stack="transformer_blocks",
    attention="attn1",
    projections=("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0"),
    up="ff.net.0.proj",
    down="ff.net.2",
    norms=("norm1.norm", "norm3"),
    embeddings=("pos_embed",),
    head=("norm_out", "proj_out_1", "proj_out_2"),
    heads_attributes=("heads",),
    config_layers="num_layers",
    config_head_size="attention_head_dim",
    stream="pos_embed.proj",
    modulation=("norm1",),
    without={
        "attention": "its blocks compute with what attention gives and take nothing in its place: one head has to stay",
        "layers": "the head reads the first block's embedding of time and label, and each block has one of its own",
        "attention maps": "its attention is computed whole and hands out none",
    },
)
"""The DiT of diffusers."""
