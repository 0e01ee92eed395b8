"""ModernBERT, NomicBERT and RoFormer: what the checks of all families do not show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import minitrans
from minitrans.attention.layout import PackedLayout
from minitrans.checkpoints.verification import verify
from minitrans.errors import CheckpointError, NotSupportedError

SIZES: dict[str, Any] = {
    "vocab_size": 37, "hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 4, "intermediate_size": 20,
    "max_position_embeddings": 64,
}  # fmt: skip
IDS = torch.randint(4, 37, (3, 20), generator=torch.Generator().manual_seed(0))
MASK = torch.ones(3, 20, dtype=torch.long)
MASK[1, 12:] = 0
MASK[2, :5] = 0


def test_N1_each_layer_sees_what_its_kind_says_and_turns_by_its_base(pair, error):
    """With windows so narrow that padding sees nothing; what stands there means nothing (M2)."""
    kinds = ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"]
    rope = {
        "full_attention": {"rope_theta": 100.0, "rope_type": "linear", "factor": 4.0},
        "sliding_attention": {"rope_theta": 20.0, "rope_type": "default"},
    }
    fields = {**SIZES, "layer_types": kinds, "rope_parameters": rope, "local_attention": 5, "norm_bias": True}
    models = pair("modernbert", "Model", **fields)
    out, theirs = (
        model.eval()(IDS, attention_mask=MASK, output_attentions=True, output_hidden_states=True)
        for model in (models.ours, models.reference)
    )
    real = MASK.bool()
    assert error(out.last_hidden_state[real], theirs.last_hidden_state[real]) <= 1e-12
    for layer, (ours, expected) in enumerate(zip(out.attentions, theirs.attentions, strict=True)):
        rows = real[:, None, :, None]
        assert error(ours * rows, expected * rows) <= 1e-12
        seen = (ours[0] > 0).sum(-1).max()
        assert seen == (20 if kinds[layer] == "full_attention" else 5)
    for ours, expected in zip(out.hidden_states, theirs.hidden_states, strict=True):
        assert error(ours[real], expected[real]) <= 1e-12


ROPES: dict[str, dict[str, Any]] = {
    "dynamic": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 50.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 6, "rope_theta": 300.0},
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 90.0,
        "original_max_position_embeddings": 9,
    },
}  # fmt: skip


@pytest.mark.parametrize("rope", ROPES.values(), ids=ROPES)
@pytest.mark.parametrize("family", ["modernbert", "nomic_bert"])
def test_turns_reach_further_than_in_training(pair, error, family: str, rope: dict[str, Any]):
    """Those that are found anew for each text go beyond the longest; the others end there, as positions do."""
    both = family == "modernbert"
    said = {"full_attention": rope, "sliding_attention": {**rope, "factor": 3.0}} if both else rope
    models = pair(family, "Model", **{**SIZES, "max_position_embeddings": 12}, rope_parameters=said)
    dynamic = rope["rope_type"] == "dynamic"
    for length in (7, 12, *((19,) if dynamic else ())):
        got, expected = (model.eval()(IDS[:, :length])[0] for model in (models.ours, models.reference))
        assert error(got, expected) <= 1e-10, length
    if not dynamic:
        with pytest.raises(ValueError, match="the model has positions for 12"):
            models.ours(IDS)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForMultipleChoice"])
def test_N1_what_stands_for_a_text(pair, error, head: str, pooling: str, padded: bool):
    models = pair("modernbert", head, **SIZES, classifier_pooling=pooling, local_attention=20)
    shape = (1, 3, 20) if head == "ForMultipleChoice" else (3, 20)
    mask = (MASK if padded else torch.ones_like(MASK)).view(shape)
    got, expected = (model.eval()(IDS.view(shape), attention_mask=mask) for model in (models.ours, models.reference))
    assert error(got.logits, expected.logits) <= 1e-12
    if head == "ForSequenceClassification":
        lengths = [20, 12, 15]
        alone = torch.cat([models.ours(IDS[i : i + 1, :n]).logits for i, n in enumerate(lengths)])
        packed = torch.cat([IDS[i, :n] for i, n in enumerate(lengths)])
        assert error(models.ours(packed, layout=PackedLayout.from_lengths(lengths)).logits, alone) <= 1e-12
        square = torch.ones(3, 1, 20, 20, dtype=torch.bool)
        if pooling == "mean":
            with pytest.raises(ValueError, match="which tokens are there to take the mean of"):
                models.ours(IDS, attention_mask=square)
        else:
            assert error(models.ours(IDS, attention_mask=square).logits, models.ours(IDS).logits) <= 1e-12


def test_N1_labels_may_choose_what_is_scored(pair, error):
    models = pair("modernbert", "ForMaskedLM", **SIZES, sparse_prediction=True, sparse_pred_ignore_index=-7)
    labels = IDS.clone()
    labels[:, ::3], labels[:, 1] = -7, -100
    got, expected = (model(IDS, labels=labels) for model in (models.ours, models.reference))
    assert got.logits.shape == expected.logits.shape == (int((labels != -7).sum()), 37)
    assert error(got.logits, expected.logits) <= 1e-12
    assert error(got.loss, expected.loss) <= 1e-12
    assert models.ours(IDS).logits.shape == (3, 20, 37)


def test_N1_every_head_begins_as_the_language_model_does(tmp_path: Path):
    """A classifier on a pre-trained model takes its head along, all but the decoder."""
    config = minitrans.ModernBertConfig(**SIZES, pad_token_id=3, bos_token_id=1, eos_token_id=2)
    model = minitrans.ModernBertForMaskedLM(config)
    model.save_pretrained(tmp_path)
    classifier = minitrans.ModernBertForTokenClassification.from_pretrained(tmp_path)
    assert torch.equal(classifier.lm_head.dense.weight, model.lm_head.dense.weight)
    assert classifier.load_report.fresh == ["classifier.weight", "classifier.bias"]


def test_N1_fresh_weights_are_cut_and_smaller_where_they_add_to_the_stream():
    config = minitrans.ModernBertConfig(
        **{**SIZES, "hidden_size": 96}, pad_token_id=3, bos_token_id=1, eos_token_id=2, initializer_cutoff_factor=1.5
    )
    torch.manual_seed(0)
    model = minitrans.ModernBertForSequenceClassification(config)
    block = model.model.encoder.layer[1]
    expected = {block.attention.query: 0.02, block.attention.output: 0.02 / 8**0.5, block.feed_forward.up: 0.02}
    expected |= {block.feed_forward.down: 0.02 / 8**0.5, model.lm_head.dense: 0.02 / 8**0.5, model.classifier: 96**-0.5}
    for layer, deviation in expected.items():
        weight = layer.weight.detach()
        assert weight.abs().max() <= 1.5 * deviation
        assert float(weight.abs().max()) > 1.3 * deviation or weight.numel() < 200
        assert (
            0.6 * deviation < float(weight.std()) < 0.9 * deviation
        )  # of a normal distribution cut at 1.5 deviations: 0.74


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layer_types": ["full_attention"]}, "layer_types must be 4 of 'full_attention' and 'sliding_attention'"),
        ({"layer_types": ["full", "full", "full", "full"]}, "layer_types must be 4 of"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "for full_attention of 'yarn' with factor"),
        ({"rope_parameters": {"full_attention": {"rope_type": "su"}}}, "of a rope_type that is known"),
        ({"rope_parameters": {"sliding_attention": {"rope_theta": 1.0}}}, "rope_theta is not 1"),
        ({"rope_parameters": {"sliding_attention": 1.0}}, "rope_parameters must be for sliding_attention an object"),
        ({"rope_parameters": "yarn"}, "rope_parameters must be for full_attention an object"),
        ({"local_attention": 1}, "local_attention must be at least 2"),
        ({"classifier_pooling": "max"}, "classifier_pooling must be 'cls' or 'mean'"),
        ({"global_attn_every_n_layers": 0}, "global_attn_every_n_layers must be at least 1"),
    ],
)
def test_modernbert_s_configuration_is_checked(fields: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        minitrans.ModernBertConfig(**SIZES, pad_token_id=3, **fields)


def test_what_follows_from_other_fields_follows_them():
    config = minitrans.ModernBertConfig(**SIZES, pad_token_id=3, global_attn_every_n_layers=2)
    assert config.layer_types == ["full_attention", "sliding_attention"] * 2
    assert len(config.updated(num_hidden_layers=3).layer_types) == 3
    assert config.updated(local_rope_theta=None).rope_parameters["sliding_attention"]["rope_theta"] == 160_000.0
    assert config.updated(attention="sigmoid").layer_types == config.layer_types
    nomic = minitrans.NomicBertConfig(**SIZES)
    assert nomic.updated(rotary_emb_base=7.0).rope_parameters["rope_theta"] == 7.0
    assert nomic.updated(hidden_size=48).head_dim == 16


AUTHORS = {
    "activation_function": "swiglu", "attn_pdrop": 0.0, "causal": False, "embd_pdrop": 0.0, "layer_norm_epsilon": 1e-05,
    "mlp_fc1_bias": False, "mlp_fc2_bias": False, "model_type": "nomic_bert", "n_embd": 24, "n_head": 3, "n_inner": 20,
    "n_layer": 4, "n_positions": 64, "parallel_block": False, "prenorm": False, "qkv_proj_bias": False, "resid_pdrop": 0.0,
    "rotary_emb_base": 500, "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": False, "rotary_emb_scale_base": None,
    "rotary_scaling_factor": None, "scale_attn_weights": True, "type_vocab_size": 2, "use_rms_norm": False, "vocab_size": 37,
}  # fmt: skip


def authors_folder(folder: Path, **changes: Any) -> Path:
    """A model of the reference, and a configuration in the words of the authors' own code."""
    config = transformers.NomicBertConfig(
        **SIZES, layer_norm_eps=1e-5, rope_parameters={"rope_theta": 500.0, "rope_type": "default"}
    )
    torch.manual_seed(0)
    transformers.NomicBertForMaskedLM(config).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({**AUTHORS, **changes}))
    return folder


def test_NB1_the_words_of_its_authors(tmp_path: Path, error):
    folder = authors_folder(tmp_path / "theirs")
    tensors = load_file(folder / "model.safetensors")
    save_file({f"bert.{name.removeprefix('nomic_bert.')}" if name.startswith("nomic") else name: tensor
               for name, tensor in tensors.items()}, folder / "model.safetensors")  # fmt: skip
    ours = minitrans.NomicBertForMaskedLM.from_pretrained(folder, key_mapping={r"^bert\.": "nomic_bert."})
    assert (ours.config.hidden_size, ours.config.rope_parameters["rope_theta"]) == (24, 500)
    ours.save_pretrained(tmp_path / "ours")
    theirs = transformers.NomicBertForMaskedLM.from_pretrained(tmp_path / "ours")
    assert torch.allclose(ours(IDS).logits, theirs.eval()(IDS).logits, atol=1e-5)
    assert verify(tmp_path / "ours").equal


@pytest.mark.parametrize(
    "changes",
    [{"prenorm": True}, {"qkv_proj_bias": True}, {"activation_function": "gelu"}, {"rotary_scaling_factor": 2},
     {"causal": True}, {"use_rms_norm": True}, {"rotary_emb_fraction": 0}, {"rope_theta": 5.0}],
)  # fmt: skip
def test_NB1_what_changes_numbers_is_refused(changes: dict[str, Any], tmp_path: Path):
    with pytest.raises(CheckpointError, match=next(iter(changes))):
        minitrans.NomicBertForMaskedLM.from_pretrained(authors_folder(tmp_path, **changes))


@pytest.mark.parametrize("interleaved", [False, True])
def test_NB1_a_part_of_each_head_may_turn_in_either_layout(interleaved: bool, error):
    """Against scores written out: no reference has a fraction."""
    config = minitrans.NomicBertConfig(
        **{**SIZES, "num_hidden_layers": 1},
        rotary_emb_fraction=0.5,
        rotary_emb_interleaved=interleaved,
        rotary_emb_base=9.0,
    )
    torch.manual_seed(1)
    model = minitrans.NomicBertModel(config).double().eval()
    out = model(IDS[:1, :6], output_attentions=True, output_hidden_states=True)
    attention, x = model.encoder.layer[0].attention, out.hidden_states[0][0]
    order = [0, 1, 2, 3] if interleaved else [0, 2, 1, 3]  # which columns of the first four make pairs
    for head in range(3):
        q, k = ((x @ part.weight.T)[:, 8 * head : 8 * head + 8].detach() for part in (attention.query, attention.key))
        scores = torch.zeros(6, 6, dtype=torch.float64)
        for i in range(6):
            for j in range(6):
                score = q[i, 4:] @ k[j, 4:]
                for pair_, frequency in enumerate((1.0, 9.0**-0.5)):
                    a, b = order[2 * pair_], order[2 * pair_ + 1]
                    one = torch.complex(q[i, a], q[i, b]) * torch.exp(
                        torch.tensor(1j * i * frequency, dtype=torch.complex128)
                    )
                    other = torch.complex(k[j, a], k[j, b]) * torch.exp(
                        torch.tensor(1j * j * frequency, dtype=torch.complex128)
                    )
                    score = score + (one * other.conj()).real
                scores[i, j] = score / 8**0.5
        assert error(out.attentions[0][0, head], scores.softmax(-1)) <= 1e-12


def test_RF1_the_turns_are_a_table_of_the_file_not_trained(pair, error):
    """Fresh ones are the sinusoids; what a file holds is used, rounded or not."""
    config = minitrans.RoFormerConfig(**SIZES)
    table = minitrans.RoFormerModel(config).encoder.turns.weight
    theirs = transformers.RoFormerModel(transformers.RoFormerConfig(**SIZES))
    torch.testing.assert_close(table.data, theirs.encoder.embed_positions.weight.data, rtol=0, atol=1e-7)
    assert not table.requires_grad
    models = pair("roformer", "Model", **SIZES)  # with a table that is noise
    got, expected = (model.eval()(IDS, attention_mask=MASK)[0] for model in (models.ours, models.reference))
    assert error(got, expected) <= 1e-12
    with torch.no_grad():
        models.ours.encoder.turns.weight.mul_(1.01)
    assert error(models.ours(IDS, attention_mask=MASK)[0], expected) > 1e-4


def test_RF1_values_may_turn_too(pair, error):
    models = pair("roformer", "ForMaskedLM", **SIZES, rotary_value=True)
    got, expected = (model.eval()(IDS, attention_mask=MASK).logits for model in (models.ours, models.reference))
    assert error(got, expected) <= 1e-12


def test_a_summary_that_looks_at_padding_keeps_it():
    for cls, fields in (
        (minitrans.RoFormerForMultipleChoice, {}),
        (minitrans.ElectraForMultipleChoice, {"summary_type": "mean"}),
    ):
        model = cls(cls.config_class(**SIZES, **fields)).double().eval()
        ids, mask = IDS[None, :2], MASK[None, :2]
        kept = model(ids, mask, padding="keep").logits
        assert torch.equal(model(ids, mask).logits, kept)
        with pytest.raises(
            NotSupportedError, match="summary_type='(last|mean)', which looks at it; use padding='keep'"
        ):
            model(ids, mask, padding="remove")
        model.set_padding("remove")
        with pytest.raises(NotSupportedError, match="does not go with summary_type"):
            model(ids, mask)


@pytest.mark.parametrize("name", ["ModernBertModel", "NomicBertModel", "RoFormerModel"])
def test_a_swap_stacks_on_the_family_s_own(name: str, tmp_path: Path):
    """The turns stay under what is swapped in, through a save too, and are there when it is swapped out."""
    cls = getattr(minitrans, name)
    config = cls.config_class(**SIZES, **({"pad_token_id": 3, "local_attention": 6} if "Modern" in name else {}))
    torch.manual_seed(0)
    model = cls(config).eval()
    full = model(IDS)[0]
    own = [[variant.name for variant in module.all_variants] for module in model.attentions]
    assert all("rotary" in names for names in own)
    model.set_attention("talking_heads")  # which begins at the identity
    torch.testing.assert_close(model(IDS)[0], full, rtol=0, atol=1e-5)
    with torch.no_grad():
        for module in model.attentions:
            module.variants[0].weights_mix.add_(0.1)
    changed = model(IDS)[0]
    assert (changed - full).abs().max() > 1e-3
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(cls.from_pretrained(tmp_path)(IDS)[0], changed, rtol=0, atol=1e-6)
    model.set_attention("full")
    assert torch.equal(model(IDS)[0], full)
    assert [[variant.name for variant in module.all_variants] for module in model.attentions] == own


def test_roformer_s_tokenizer_says_why_not(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "roformer"}))
    with pytest.raises(NotSupportedError, match="jieba"):
        minitrans.AutoTokenizer.from_pretrained(tmp_path)
