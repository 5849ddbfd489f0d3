"""Where the parts of Megatron-BERT are: BERT with its norms before attention and feed-forward."""

from compressor.contracts.anatomy import Row

MEGATRON_BERT = Row(
    family="megatron-bert",
    model_types=("megatron-bert",),
    trunks=("", "bert"),
    stack="encoder.layer",
    attention="attention.self",
    projections=("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"),
    up="intermediate.dense",
    down="output.dense",
    norms=("attention.ln", "ln"),
    embeddings=("embeddings",),
    head=("pooler",),
    heads_attributes=("num_attention_heads",),
    head_size_attribute="attention_head_size",
)
